"""Teachers: models that score the candidates of a batch, however slowly.

A teacher is anything that is called as `teacher(batch, training=False)` and returns
scores `(batch, list_size)`; see `recdistill.data.batches` for what a batch holds. Our
own
are the reference ranker (`recdistill.models.ranker`) and the linear item model
(`recdistill.models.linear`). Here is what joins several of them, `EnsembleTeacher`,
and what
makes a teacher of a model from outside: an `ExternalTeacher` around one of

| model | what it is | file |
|---|---|---|
| `KerasModel` | a `.keras` file, or a Keras 3 model in memory | `keras_model.py` |
| `SavedModel` | a SavedModel folder and signature | `saved_model.py` |
| `TfKerasModel` | a tf_keras or TFRS model, in its own process | `tf_keras.py` |
| `Booster` | a LightGBM booster's text file | `booster.py` |
| `Function` | a Python function | `function.py` |
| `RemoteModel` | a TensorFlow Serving endpoint | `remote.py` |

`ScoreTable` is a teacher of which only the scores are there.
"""

from recdistill.errors import TeacherError
from recdistill.teachers.booster import Booster
from recdistill.teachers.function import Function
from recdistill.teachers.inputs import InputSpec
from recdistill.teachers.keras_model import KerasModel
from recdistill.teachers.raw_teacher import ExternalTeacher, RawModel
from recdistill.teachers.remote import RemoteModel
from recdistill.teachers.saved_model import SavedModel
from recdistill.teachers.score_table import ScoreTable
from recdistill.teachers.tf_keras import TfKerasModel

__all__ = [
    "Booster",
    "ExternalTeacher",
    "Function",
    "InputSpec",
    "KerasModel",
    "RawModel",
    "RemoteModel",
    "SavedModel",
    "ScoreTable",
    "TeacherError",
    "TfKerasModel",
]
