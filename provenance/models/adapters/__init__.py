"""Built-in adapters: how a kind of model reads its contents and scores them."""
