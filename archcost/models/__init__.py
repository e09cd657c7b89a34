"""SPECs and the zoo: from a name or a file to a model and its inputs. Nothing is ever downloaded."""

from archcost.models.building import Loaded
from archcost.models.counted import ZooRow, count_entry, zoo, zoo_entries
from archcost.models.specs import load
from archcost.models.vision import Published, build_torchvision, published

__all__ = [
    "Loaded",
    "Published",
    "ZooRow",
    "build_torchvision",
    "count_entry",
    "load",
    "published",
    "zoo",
    "zoo_entries",
]
