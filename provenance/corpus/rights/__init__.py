"""Rights in works: sources, terms, signals of sites, opt-outs of owners, and clearance for training."""
