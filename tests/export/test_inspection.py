"""inspection: ops and compatible servers of a SavedModel, read from its files."""

import pytest
from tensorflow.core.protobuf import saved_model_pb2

from recdistill.export.inspection import compatibility, served_ops

pytestmark = pytest.mark.slow


@pytest.fixture
def model():
    message = saved_model_pb2.SavedModel()
    graph = message.meta_graphs.add()
    graph.meta_info_def.tensorflow_version = "2.21.0"
    graph.meta_info_def.stripped_default_attrs = True
    graph.graph_def.versions.producer = 2474
    graph.graph_def.versions.min_consumer = 12
    graph.graph_def.node.add(name="add", op="AddV2")
    return message


def test_the_oldest_server_is_estimated_from_the_newest_op(model, tmp_path):
    def ask():
        content = model.SerializeToString()
        (tmp_path / "saved_model.pb").write_bytes(content)
        return compatibility(tmp_path)

    assert ask()["oldest_server"] == {
        "tensorflow": "2.0",
        "estimate": True,
        "because": "SavedModels of functions",
    }
    function = model.meta_graphs[0].graph_def.library.function.add()
    function.node_def.add(name="pad", op="RaggedTensorToTensor")
    assert ask()["oldest_server"]["tensorflow"] == "2.1"
    model.meta_graphs[0].graph_def.node.add(name="read", op="DisableCopyOnRead")
    found = ask()
    assert found["oldest_server"]["tensorflow"] == "2.12"
    assert found["oldest_server"]["because"] == "the op DisableCopyOnRead"
    assert found["written_by"] == "2.21.0"
    assert (found["producer"], found["min_consumer"]) == (2474, 12)
    assert found["default_attributes"] == "left out"


def test_an_op_outside_tensorflow_is_refused_with_its_name(model, tmp_path):
    graph = model.meta_graphs[0].graph_def
    function = graph.library.function.add()
    function.signature.name = "inner"
    graph.node.add(name="call", op="inner")
    path = tmp_path / "saved_model.pb"
    path.write_bytes(model.SerializeToString())
    assert served_ops(tmp_path) == ["AddV2"]
    function.node_def.add(name="search", op="Addons>ScannSearch")
    path.write_bytes(model.SerializeToString())
    with pytest.raises(ValueError, match=r"ScannSearch, node 'search' of inner"):
        served_ops(tmp_path)
