"""Stores: where claims are kept.  A store knows no policy; see `base.Store`."""
