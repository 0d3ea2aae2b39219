"""Documents in rows: the rule of `fh1 train --data`.

A row takes whole documents, in the order of the file, while they fit in its columns. A document that is longer than a row
is cut into pieces of that length, each a document of its own. What is left of a row is padding, on the right. Positions
start again at each document, nothing flows between documents, and a document's first token is not predicted: its label
is -100. A batch is so many rows in order; after the last row the first one follows, epoch after epoch.
"""
IGNORED = -100


def read_documents(path, vocab=None):
    """Lists of ids: one document per line, ids separated by blanks; empty lines are none."""
    documents = []
    for number, line in enumerate(open(path, encoding="ascii"), 1):
        try:
            ids = [int(word) for word in line.split()]
        except ValueError as e:
            raise SystemExit(f"{path}:{number}: {e}; expected token ids separated by blanks")
        if vocab is not None and not all(0 <= i < vocab for i in ids):
            raise SystemExit(f"{path}:{number}: an id lies outside 0..{vocab - 1}")
        if ids:
            documents.append(ids)
    if not documents:
        raise SystemExit(f"{path}: no ids")
    return documents


def pack(documents, width):
    """Rows of documents."""
    rows, used = [], width
    for document in documents:
        for piece in (document[i:i + width] for i in range(0, len(document), width)):
            if used + len(piece) > width:
                rows.append([])
                used = 0
            rows[-1].append(piece)
            used += len(piece)
    return rows


def batches(rows, size):
    """Batch after batch, without end. A batch may reach over the end of an epoch."""
    at = 0
    while True:
        yield [rows[(at + k) % len(rows)] for k in range(size)]
        at += size


def labels_for(documents, path=None):
    """The labels of a file in the lines of the documents; default: their ids."""
    if path is None:
        return documents
    labels = read_documents(path)
    if [len(d) for d in labels] != [len(d) for d in documents]:
        raise SystemExit(f"{path}: the lines are not as long as those of the ids")
    return labels


def count(rows):
    """Labels that count."""
    return sum(len(document) - 1 for row in rows for document in row)


def first_ignored(rows):
    """Rows of labels with those of first tokens ignored."""
    return [[[IGNORED, *document[1:]] for document in row] for row in rows]


def arrays(rows, labels=None, pad_id=0, width=0):
    """The inputs of one packed call: ids, mask (only where there is padding), position_ids, seq_idx, labels, as lists.
    Labels in rows as the ids; default: the ids."""
    width = max(width, *(sum(map(len, row)) for row in rows)) if rows else width
    out = {k: [] for k in ("ids", "mask", "position_ids", "seq_idx", "labels")}
    for row, its_labels in zip(rows, first_ignored(labels or rows), strict=True):
        n = width - sum(map(len, row))
        last = len(row) - 1
        out["ids"].append([i for document in row for i in document] + [pad_id] * n)
        out["mask"].append([1] * (width - n) + [0] * n)
        out["position_ids"].append([p for document in row for p in range(len(document))] + [0] * n)
        out["seq_idx"].append([k for k, document in enumerate(row) for _ in document] + [last] * n)
        out["labels"].append([i for document in its_labels for i in document] + [IGNORED] * n)
    if all(all(row) for row in out["mask"]):
        del out["mask"]
    return out
