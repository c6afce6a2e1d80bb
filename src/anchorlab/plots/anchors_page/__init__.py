"""A page that shows where anchors enter an RPN, with a trained one inside (page.py)."""
