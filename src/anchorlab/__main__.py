"""The program `anchorlab`, also for interpreters without its script: python -m anchorlab train."""

from anchorlab.cli.main import main

if __name__ == "__main__":
    main()
