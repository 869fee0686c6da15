"""Built-in adapters: each turns contents into batches for a kind of model, computes its loss and trains it."""
