from anchorlab.metrics.recall import ProposalRecall as ProposalRecall
