"""The steps of the pipeline, in order: `STEPS` by name.

Importing this package does not import TensorFlow, so that the command line can list
names and summaries at once.
"""

from types import MappingProxyType

from recdistill.pipeline.steps.assistant import Assistant
from recdistill.pipeline.steps.baseline import Baseline
from recdistill.pipeline.steps.closure import Closure
from recdistill.pipeline.steps.distill import Distill
from recdistill.pipeline.steps.evaluate import Evaluate
from recdistill.pipeline.steps.export import ExportStep
from recdistill.pipeline.steps.pilot import Pilot
from recdistill.pipeline.steps.prepare import Prepare
from recdistill.pipeline.steps.score import Score
from recdistill.pipeline.steps.step import Step
from recdistill.pipeline.steps.teacher import TeacherStep

_ORDER: tuple[Step, ...] = (
    Prepare(),
    Baseline(),
    TeacherStep(),
    Score(),
    Assistant(),
    Pilot(),
    Closure(),
    Distill(),
    Evaluate(),
    ExportStep(),
)

STEPS = MappingProxyType({step.name: step for step in _ORDER})
"""All steps by name, in the order in which they run.

With partial scores the baseline runs after `score`, because it trains on the scored
candidates. `pilot` and `closure` run with retrieved lists only, and `assistant` with
`distill.assistant` only.
"""
