"""What a model learned, token by token: the rows that pages and tables read."""
