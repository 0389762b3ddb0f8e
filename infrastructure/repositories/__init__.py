"""Loads what a turn needs of an aggregate and saves what it changed, one file per aggregate."""
