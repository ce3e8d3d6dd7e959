"""Common names of columns, by what they mean."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

_USERS = (
    "user customer visitor member reviewer client account buyer shopper subscriber "
    "person profile listener viewer reader player author"
).split()
_SEARCHES = "cookie session search query device".split()
_ITEMS = (
    "item product movie film article video book song track music artist game app "
    "business restaurant recipe listing hotel property course job news document doc "
    "offer content page post show episode poi venue place sku ad creative candidate"
).split()


def _ids(nouns: Sequence[str], others: str) -> tuple[str, ...]:
    return (
        *(f"{noun}id" for noun in nouns),
        *others.split(),
        *(f"{noun}{end}" for end in ("key", "code", "number", "no") for noun in nouns),
    )


USER_IDS = _ids(_USERS, "uid msno")
USERS = ("username", "reviewername", *_USERS)
"""Names of a column of users whose values may be something else, such as a group."""

QUERY_IDS = (*USER_IDS, *_ids(_SEARCHES, "qid srchid"), *USERS, *_SEARCHES)
ITEM_IDS = (
    *_ids(_ITEMS, "parentasin asin isbn sku iid pid mid prodid propid candidate"),
    *_ITEMS,
)
TIMES = (
    "timestamp time ts datetime eventtime eventtimestamp date tdat unixreviewtime "
    "reviewtime reviewdate createdat orderedat purchasedat clickedat viewedat "
    "watchedat playedat updatedat utctime starttime orderdate invoicedate eventdate "
    "purchasedate dt day"
).split()
ORDERS = "position order step sequence seq index idx rank number".split()
"""Names of a number that counts the interactions of a query."""

RELEVANCES = (
    "relevance label target clicked click isclick isclicked clicks clickbool "
    "wasclicked booked isbooked bookingbool thumb thumbs liked like rating ratings "
    "stars star overall grade reviewscore purchased ordered bought converted "
    "conversion vote preference feedback score"
).split()
_JUDGEMENTS = ("rating", "ratings", "stars")
_FOREIGN = frozenset(
    "avg average mean median min max sum total count num number weighted bayesian "
    "aggregate aggregated adjusted normalized normalised std var previous prior "
    "last expected predicted prediction pred estimated model teacher ranker imdb "
    "tmdb rt rotten tomatoes metacritic critic critics goodreads yelp tripadvisor "
    "google trustpilot github repo repository external global public community "
    "content age parental maturity mpaa esrb pegi bbfc credit risk bond energy "
    "safety seller vendor driver host sentiment".split()
)
"""Words of a rating that the query did not give to the item of the row."""

_OWN = frozenset("my your user member customer guest reviewer review".split())
"""Words of a score that the query gave; other scores are mostly those of a model."""

GRADES = "relevance label target grade".split()
"""Names of graded relevance, whose lowest grade means that nothing was chosen."""

EVENTS = (
    "event eventtype action actiontype behavior behaviour behaviortype interaction "
    "interactiontype type"
).split()
CHOICES = (
    "purchase buy bought order transaction conversion addtocart cart wishlist save "
    "like favorite favourite share click play view"
).split()
"""Names of events, the strongest sign of interest first."""

WEIGHTS = (
    "weight plays playcount playcnt count counts quantity qty frequency listens "
    "listencount numplays"
).split()
LISTS = (
    "listid impressionid requestid slateid displayid pageviewid searchid queryid "
    "srchid sessionid groupid impid list impression request"
).split()
SCORES = (
    "teacherscore score scores prediction pred logit logits modelscore rankerscore "
    "pctr ctr"
).split()
SEARCH_WORDS = (
    "words query searchquery searchterm searchterms searchwords keywords keyword term "
    "q querytext"
).split()
CONTEXTS = (
    "device devicetype platform os browser hour hourofday weekday dayofweek country "
    "city region state locale language lang channel source referrer page surface "
    "placement store storeid app"
).split()
TABLES_OF_INTERACTIONS = (
    "interactions lists ratings reviews events clicks transactions purchases orders "
    "views plays listens logs log impressions behaviors history train data"
).split()
_CODES = re.compile(
    r"(?:^|[_\W])(?:id|ids|code|codes|key|zip|zipcode|postal"
    r"|ean|isbn|upc|gtin|barcode|phone|uuid|guid|hash)$"
)
_INDEX = re.compile(r"^(?:__index_level_\d+__|Unnamed: 0(?:\.\d+)*|)$")
_CAMEL = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")
_GROUPS = (
    "category type class group level status gender sex occupation genre brand segment "
    "cluster colour color department section region club cohort plan tier flag hour "
    "weekday"
).split()
_QUANTITIES = (
    "age price cost amount year size length duration rating score qty quantity weight "
    "height width distance popularity revenue total share rate ratio avg mean"
).split()
_COUNTS = "count number num rank".split()


def plain_name(name: str) -> str:
    """The name in lower case, with letters and digits only."""
    return re.sub(r"[^a-z0-9]", "", name.lower())


def named(columns: Iterable[str], names: Sequence[str]) -> list[str]:
    """The columns with one of these names, in the order of the names."""
    places = {name: number for number, name in reversed([*enumerate(names)])}
    found = [name for name in columns if plain_name(name) in places]
    return sorted(found, key=lambda name: places[plain_name(name)])


def are_judgements(name: str) -> bool:
    """Whether the name ends with a word for the judgement of a query on an item.

    Example:
        >>> are_judgements("Book-Rating"), are_judgements("imdb_rating")
        (True, False)
    """
    *words, last = re.split(r"[^a-z0-9]+", _CAMEL.sub("_", name).lower())
    if last == "score":
        return bool(words) and _OWN.issuperset(words)
    return bool(words) and last in _JUDGEMENTS and _FOREIGN.isdisjoint(words)


def is_code(name: str) -> bool:
    """Whether the name is that of an identifier or code."""
    return _CODES.search(_CAMEL.sub("_", name).lower()) is not None


def is_index(name: str) -> bool:
    """Whether pandas gives this name to the index of a DataFrame that has none."""
    return _INDEX.match(name) is not None


def is_group(name: str) -> bool:
    """Whether the name is that of a category, such as `brand`."""
    return bool(_parts(name) & set(_GROUPS))


def is_quantity(name: str, counts: bool = True) -> bool:
    """Whether the name is that of a quantity, such as `price`.

    Args:
        name: Name of a column.
        counts: Whether names that may also number the rows, such as `rank`, count.
    """
    quantities = {*_QUANTITIES, *(_COUNTS if counts else ())}
    return bool(_parts(name) & quantities)


def _parts(name: str) -> set[str]:
    return set(re.split(r"[^a-z]+", _CAMEL.sub("_", name).lower()))
