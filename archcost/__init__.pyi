# Rooms with public names of their own: crosscheck beside compare, algorithms step by step, execution paths,
# pictures, rewrite rules, and rules for the costs and the receptive fields of other operators.
from . import analysis as analysis
from . import learn as learn
from . import paths as paths
from . import plot as plot
from . import rewriting as rewriting
from . import rules as rules

# The functions, one for each question, and the results that they return.
from .analysis.analysis import Analysis as Analysis
from .analysis.analysis import analyze as analyze
from .analysis.budget import Budget as Budget
from .analysis.comparison import Comparison as Comparison
from .analysis.comparison import compare as compare
from .analysis.difference import Difference as Difference
from .analysis.difference import diff as diff
from .analysis.effective import effective_field as effective_field
from .analysis.footprint import Footprint as Footprint
from .analysis.footprint import footprint as footprint
from .analysis.largest import Largest as Largest
from .analysis.largest import largest_batch as largest_batch
from .analysis.largest import largest_input as largest_input
from .analysis.receptive import receptive_field as receptive_field
from .analysis.spectra import Spectrum as Spectrum
from .analysis.spectra import spectrum as spectrum
from .analysis.sweep import Sweep as Sweep
from .analysis.training import TrainingStep as TrainingStep
from .analysis.zoo import zoo as zoo
from .engine.accelerate import accelerate as accelerate
from .engine.acceleration import Acceleration as Acceleration
from .engine.loading import load_accelerated as load_accelerated

# The errors, each for another mend.
from .errors import ArchcostError as ArchcostError
from .errors import CostError as CostError
from .errors import InputError as InputError
from .errors import ModelError as ModelError
from .errors import RewriteError as RewriteError
from .errors import SpecError as SpecError
from .fields.effective import EffectiveField as EffectiveField
from .fields.field import ReceptiveField as ReceptiveField
from .integrations.asserting import assert_cost as assert_cost
from .integrations.checking.check import check as check
from .integrations.checking.result import CheckResult as CheckResult
from .integrations.notebook import load_ipython_extension as load_ipython_extension
from .latency.measure import measure as measure
from .latency.measured import Measured as Measured
from .latency.measured import MeasuringInterrupted as MeasuringInterrupted
from .latency.store.measurement import StoreError as StoreError
from .latency.store.store import Store as Store
from .latency.sweeping import sweep as sweep
from .latency.training import training_step as training_step
from .models.specs import load as load
from .optimizing.calibration import Calibration as Calibration
from .optimizing.calibration import calibrate as calibrate
from .optimizing.frontier import Frontier as Frontier
from .optimizing.frontier import frontier as frontier
from .optimizing.optimize import optimize as optimize
from .optimizing.optimized import Optimized as Optimized
from .optimizing.recover import Recovered as Recovered
from .optimizing.recover import recover as recover
from .paths.convolve import convolve as convolve
from .report.result import Result as Result
from .report.saving import load_result as load_result
from .rewriting.plan.plan import Plan as Plan
from .rewriting.proposals import Proposals as Proposals
from .rewriting.proposals import propose as propose
from .rewriting.rewritten import Rewritten as Rewritten
from .rewriting.rewritten import rewrite as rewrite

# A convolution on paper, and its receptive field.
from .spec import ConvSpec as ConvSpec
from .spec import FieldStep as FieldStep
from .spec import stacked_field as stacked_field

# The lines of code that build modules.
from .trace.sites import recording_sites as recording_sites

__version__: str
