"""A batch as TensorFlow Serving forms it, written independently of the library.

The server concatenates the requests of a batch and pads each input to the width of the
widest request, with the first element of the request's whole tensor (`flat(0)`).
"""

import numpy as np

LOWEST = np.finfo("float32").min


def merged(requests):
    """One batch of several requests, given as arrays by input name."""
    batch = {}
    for name in requests[0]:
        parts = [np.asarray(request[name]) for request in requests]
        widest = np.max([part.shape[1:] for part in parts], axis=0).astype(int)
        padded = []
        for part in parts:
            wide = np.full((len(part), *widest), part.flat[0], part.dtype)
            wide[tuple(slice(size) for size in part.shape)] = part
            padded.append(wide)
        batch[name] = np.concatenate(padded)
    return batch


def answers_in_company(call, requests):
    """Answers of a call to several requests that share a batch, one for each."""
    answer = call(merged(requests))
    ends = np.cumsum([len(next(iter(request.values()))) for request in requests])
    split = {name: np.split(value, ends[:-1]) for name, value in answer.items()}
    return [
        {name: parts[place] for name, parts in split.items()}
        for place in range(len(requests))
    ]


def assert_same_answer(alone, company):
    """Compares answers; the one in company may be wider, but only with empty places.

    The additional places of `rank` belong to padding and are not compared.
    """
    assert alone.keys() == company.keys()
    for name, want in alone.items():
        got, more = company[name], None
        if want.ndim == 2:
            got, more = np.split(got, [want.shape[1]], axis=1)
        if want.dtype.kind == "f":
            np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)
        else:
            np.testing.assert_array_equal(got, want)
        if more is not None and "item_ids" in alone:
            assert (more == (b"" if name == "item_ids" else LOWEST)).all()
