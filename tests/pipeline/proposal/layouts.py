"""Small folders of data in the layouts that people have."""

import gzip
import json
from datetime import UTC, datetime

import pyarrow as pa
import pyarrow.parquet as pq

USERS, ITEMS, EACH = 15, 10, 6


def rows():
    """User, item and seconds of 90 interactions."""
    for user in range(USERS):
        for place in range(EACH):
            item = (user + place * (1 + user % 3)) % ITEMS
            yield user, item, 1_700_000_000 + 86_400 * place + 977 * user


def write(path, lines):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def date(seconds, form="%Y-%m-%d %H:%M:%S"):
    return f"{datetime.fromtimestamp(seconds, UTC):{form}}"


def shop(folder):
    """Three CSV files, with codes, gaps, lists and columns that say nothing."""
    lines = ["row,customer_id,sku,ordered_at,store,discount"]
    for k, (user, item, time) in enumerate(rows()):
        store, discount = f"s{user % 3}", (7 * k) % 11 / 10
        moment = date(time)
        lines.append(f"{k + 1},c{user},{item:04d},{moment},{store},{discount}")
    write(folder / "orders.csv", lines)
    lines = ["sku;title;brand;price;tags;uuid;country"]
    for item in range(ITEMS):
        brand = f"b{item % 3}" if item else ""
        tags = f"t{item % 4}|t{item % 3}"
        title = f"A lamp of kind {item}"
        lines.append(f"{item:04d};{title};{brand};{item}.50;{tags};{item:032x};GB")
    write(folder / "products.csv", lines)
    lines = ["customer_id,age,zip,member"]
    for user in range(USERS):
        lines.append(f"c{user},{20 + 2 * user},0{user % 4}307,{user % 2 == 0!s}")
    write(folder / "queries.csv", lines)


def ratings(folder):
    """Ratings from 1 to 5 in a single file, with `::` and Unix times."""
    lines = ["userId::movieId::rating::timestamp"]
    lines += [f"{u}::{i}::{1 + (u + i) % 5}::{t}" for u, i, t in rows()]
    write(folder / "ratings.csv", lines)


def decimal_commas(folder):
    """Ratings and prices as a European spreadsheet writes them."""
    lines = ["user_id;item_id;timestamp;rating"]
    lines += [f"{u};{i};{t};{(u + i) % 5 + 1},5" for u, i, t in rows()]
    write(folder / "interactions.csv", lines)
    lines = ["item_id;price;weight"]
    lines += [f"{i};1.{i}50,99 €;0,{i}25" for i in range(ITEMS)]
    write(folder / "items.csv", lines)


def without_header(folder):
    """User, item, rating and time, separated by tabs."""
    write(
        folder / "log.tsv",
        [f"{u + 1}\t{i + 1}\t{1 + (u + i) % 5}\t{t}" for u, i, t in rows()],
    )


def impressions(folder):
    """Lists of three items, one of them clicked, with the teacher's scores."""
    lines = ["impression_id,user_id,item_id,timestamp,clicked,position,device,score"]
    for k, (user, item, time) in enumerate(rows()):
        for place in range(3):
            shown, device = (item + place) % ITEMS, ("web", "app")[k % 2]
            score = (k * 31 + place * 17) % 97 / 10
            lines.append(
                f"imp{k},u{user},i{shown},{time},{int(place == 0)},{place},{device},"
                f"{score}"
            )
    write(folder / "lists.csv", lines)


def searches(folder):
    """Search events: every query id is new, and its words are its feature."""
    lines = ["search_id,words,item_id,timestamp"]
    for k, (user, item, time) in enumerate(rows()):
        words = f"{'old' if user % 2 else 'new'} lamp {item % 4}"
        lines.append(f"s{k},{words},i{item},{time}")
    write(folder / "interactions.csv", lines)


def daily(folder):
    """Hive partitions of Parquet files; the folder itself is the table."""
    for place in range(EACH):
        day = [r for k, r in enumerate(rows()) if k % EACH == place]
        part = folder / f"day=2024-05-0{place + 1}" / "part-0.parquet"
        part.parent.mkdir(parents=True)
        user, item, time = zip(*day, strict=True)
        columns = {"user_id": user, "item_id": item, "ts": time}
        pq.write_table(pa.table(columns), part)


def events(folder):
    """Events of two kinds as compressed JSON lines, with nested values."""
    lines = [
        json.dumps(
            {
                "visitorid": u,
                "itemid": i,
                "timestamp": t * 1_000,
                "event": "purchase" if (u + i) % 3 == 0 else "view",
                "page": {"url": "x"},
            }
        )
        for u, i, t in rows()
    ]
    folder.mkdir(exist_ok=True)
    (folder / "events.jsonl.gz").write_bytes(gzip.compress("\n".join(lines).encode()))


def without_times(folder):
    """Play counts of listeners, no times."""
    lines = ["listener,artist,plays"]
    lines += [f"u{u},a{i},{1 + (u * i) % 9}" for u, i, _ in rows()]
    write(folder / "plays.csv", lines)


def thumbs(folder):
    """Likes and dislikes, and the order of a user's interactions as the time."""
    lines = ["user_id,item_id,thumb,step"]
    lines += [
        f"u{u},i{i},{(1, 1, -1)[(u + k) % 3]},{k % EACH}"
        for k, (u, i, _) in enumerate(rows())
    ]
    write(folder / "interactions.csv", lines)


def vectors(folder):
    """Items with embeddings and lists in Parquet."""
    folder.mkdir(exist_ok=True)
    user, item, time = zip(*rows(), strict=True)
    log = pa.table({"user_id": user, "item_id": item, "timestamp": time})
    pq.write_table(log, folder / "interactions.parquet")
    items = pa.table(
        {
            "item_id": list(range(ITEMS)),
            "embedding": [[k / 7, 0.5, k / 3, 1.0] for k in range(ITEMS)],
            "genres": [["a", "b"][: 1 + k % 2] for k in range(ITEMS)],
            "json_text": [f"[{k % 3}, {k % 2}]" for k in range(ITEMS)],
            "authors": [[{"id": k}] for k in range(ITEMS)],
        }
    )
    pq.write_table(items, folder / "items.parquet")


def recbole(folder):
    """RecBole's atomic files, named like the folder."""
    lines = ["user_id:token\titem_id:token\trating:float\ttimestamp:float"]
    lines += [f"{u}\t{i}\t{1 + (u + i) % 5}\t{t}" for u, i, t in rows()]
    write(folder / f"{folder.name}.inter", lines)
    lines = ["item_id:token\tclass:token_seq"]
    lines += [f"{i}\tDrama {'War' if i % 2 else 'Comedy'}" for i in range(ITEMS)]
    write(folder / f"{folder.name}.item", lines)


def movielens(folder):
    """MovieLens 1M."""
    lines = [f"{u + 1}::{i + 1}::{1 + (u + i) % 5}::{t}" for u, i, t in rows()]
    write(folder / "ratings.dat", lines)
    write(
        folder / "movies.dat",
        [
            f"{i + 1}::Film {i} ({1950 + i})::Drama|{'War' if i % 2 else 'Comedy'}"
            for i in range(ITEMS)
        ],
    )
    write(
        folder / "users.dat",
        [f"{u + 1}::{'FM'[u % 2]}::{18 + u}::{u % 3}::0{u:04d}" for u in range(USERS)],
    )
