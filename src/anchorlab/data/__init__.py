"""Files with boxes -> `Sample` -> `Batch`; imports only `errors` of this project."""
