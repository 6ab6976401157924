"""Networks that turn images into features, each in its own file; conf/extractor/ names them."""
