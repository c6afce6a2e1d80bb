"""Functions of `import anchorlab`: what the commands do, on Python objects, with exceptions for errors."""
