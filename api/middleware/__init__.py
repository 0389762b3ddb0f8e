"""The five layers around the router, one file each, outermost first: see `api.app.PIPELINE`."""
