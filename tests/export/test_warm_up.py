"""warm_up: the TFRecord reader agrees with TensorFlow and notices damaged files."""

import pytest
import tensorflow as tf

from recdistill.errors import DataError
from recdistill.export.warm_up import read_records

RECORDS = [b"first", b"", bytes(range(256)) * 5]


@pytest.fixture
def file(tmp_path):
    """A TFRecord file with three records, written by TensorFlow."""
    path = tmp_path / "records"
    with tf.io.TFRecordWriter(str(path)) as writer:
        for record in RECORDS:
            writer.write(record)
    return path


def test_the_records_are_those_that_tensorflow_wrote(file):
    assert list(read_records(file)) == RECORDS


def test_an_empty_file_has_no_records(tmp_path):
    (tmp_path / "records").touch()
    assert list(read_records(tmp_path / "records")) == []


# Byte 9 is in a checksum of a length, bytes 13 and -9 are data.
@pytest.mark.parametrize(
    ("place", "number"), [(0, 1), (9, 1), (13, 1), (20, 1), (25, 2), (-9, 3), (-1, 3)]
)
def test_a_changed_byte_is_reported_with_the_number_of_its_record(file, place, number):
    content = bytearray(file.read_bytes())
    content[place] ^= 1
    file.write_bytes(content)
    with pytest.raises(DataError, match=rf"Received: record {number} is damaged"):
        list(read_records(file))


@pytest.mark.parametrize("end", [5, 14, -1])
def test_a_truncated_file_is_reported(file, end):
    file.write_bytes(file.read_bytes()[:end])
    with pytest.raises(DataError, match=r"`records` must be a complete TFRecord file"):
        list(read_records(file))
