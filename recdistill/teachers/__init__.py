"""Teachers: models, fast or slow, that score the candidates of a batch.

A teacher is called as `teacher(batch, training=False)` and returns scores
`(batch, list_size)`; `recdistill.data.collation` describes the batch. Our own teachers
are the reference ranker (`recdistill.models.ranker`), the linear item model
(`recdistill.models.linear`) and their ensemble (`recdistill.models.ensemble`). This
package turns an external model into a teacher: an `ExternalTeacher` wraps one of

| model | source | file |
|---|---|---|
| `KerasModel` | a `.keras` file, or a Keras 3 model in memory | `keras_model.py` |
| `SavedModel` | a SavedModel folder and signature | `saved_model.py` |
| `TfKerasModel` | a tf_keras or TFRS model, in a child process | `tf_keras.py` |
| `Booster` | a text file of a LightGBM booster | `booster.py` |
| `Function` | a Python function | `function.py` |
| `RemoteModel` | a TensorFlow Serving endpoint | `remote.py` |

`ScoreTable` is a teacher with partial scores, from a table.
"""

import recdistill.lists  # noqa: F401  Checks Keras's backend.
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
