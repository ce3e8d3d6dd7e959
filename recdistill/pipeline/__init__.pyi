from . import config as config
from . import steps as steps
from .config import Config as Config
from .config import load_config as load_config
from .run_from_python import run as run
from .runner import Pipeline as Pipeline
