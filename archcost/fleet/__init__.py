"""Fleets: whole zoos of models measured on many machines, by dask.distributed (the extra ``fleet``).

`measure` has each distinct layer measured once on each device, and keeps all in one store; `export` writes it
as a table, and `merge` makes one store of several.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
