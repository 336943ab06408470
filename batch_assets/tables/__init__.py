"""Where accepted days go beside the stores: tables of a lake or a warehouse, for whoever reads all of them."""
