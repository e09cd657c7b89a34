from .errors import FleetError as FleetError
from .exporting import export as export
from .fleet import FleetInterrupted as FleetInterrupted
from .fleet import measure as measure
from .kept import merge as merge
from .result import FleetRun as FleetRun
from .table import Estimate as Estimate
from .table import LatencyTable as LatencyTable
