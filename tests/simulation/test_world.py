"""The rooms of the world: catalogue, listeners, queries and first stage."""

from __future__ import annotations

import numpy as np
import pytest

from piano_tf.simulation import SimulationConfig, World
from piano_tf.simulation.queries import Kind
from piano_tf.simulation.words import LANGUAGES, SCRIPTS

LAST = 34  # day


def with_parts(config: SimulationConfig, **parts: dict) -> SimulationConfig:
    fields = config.model_dump()
    for part, values in parts.items():
        fields[part] |= values
    return SimulationConfig.model_validate(fields)


# --- catalogue ---


def test_names_are_of_their_language(world: World) -> None:
    catalogue = world.catalogue
    assert len(set(catalogue.artist_names)) == len(catalogue.artist_names)
    assert set(catalogue.artist_language) == set(range(len(LANGUAGES)))
    for name, language in zip(catalogue.artist_names, catalogue.artist_language, strict=True):
        assert set(name) <= set("".join(SCRIPTS[LANGUAGES[language]])) | {" "}


def test_a_version_is_its_song(world: World) -> None:
    c = world.catalogue
    versions = np.flatnonzero(c.song != np.arange(len(c.song)))
    assert 0.1 < len(versions) / len(c.song) < 0.2
    assert (c.song[c.song] == c.song).all()
    for name in ("artist", "genre", "mood", "language"):
        values = getattr(c, name)
        np.testing.assert_array_equal(values[versions], values[c.song[versions]], err_msg=name)
    assert all(c.titles[v].startswith(c.titles[c.song[v]] + " ") for v in versions)
    assert (c.version[versions] > 0).all()
    originals = np.setdiff1d(np.arange(len(c.song)), versions)
    assert (c.version[originals] == 0).all()


def test_likeness_is_of_song_album_and_artist(world: World) -> None:
    c = world.catalogue
    version = np.flatnonzero(c.song != np.arange(len(c.song)))[0]
    assert c.likeness(version, c.song[version]) == 1
    other = [t for t in np.flatnonzero(c.artist == c.artist[0]) if c.song[t] != c.song[0]]
    of_album = [t for t in other if c.album[t] == c.album[0]]
    elsewhere = [t for t in other if c.album[t] != c.album[0]]
    assert c.likeness(np.array(0), np.array(of_album)).tolist() == [0.5] * len(of_album)
    assert c.likeness(np.array(0), np.array(elsewhere)).tolist() == [0.25] * len(elsewhere)
    assert of_album and elsewhere
    assert c.likeness(np.array(0), np.array(1)) == 0


def test_popularity_rises_after_release_and_fades_to_what_is_evergreen(world: World) -> None:
    c, config = world.catalogue, world.config.catalogue
    new = np.flatnonzero((c.released > 2) & (c.released < 8))
    assert len(new) > 5
    for track in new:
        by_day = np.array([c.popularity(day)[track] for day in range(LAST)])
        out = c.released[track]
        assert np.isneginf(by_day[:out]).all()
        assert (np.diff(by_day[out : out + 5]) > 0).all()
        assert by_day[-1] < by_day.max()
    # By hand, of one track: its renown cancels out of what one day is beside another.
    track = new[0]
    age = np.array([3, 20])
    plays = -np.expm1(-(age + 1) / config.rise_days)
    plays *= config.evergreen + (1 - config.evergreen) * np.exp(-age / config.fade_days)
    found = [c.popularity(c.released[track] + one)[track] for one in age]
    assert found[1] - found[0] == pytest.approx(np.log(plays[1] / plays[0]))
    released = c.is_out(10)
    standing = c.standing(10)[released]
    assert standing.mean() == pytest.approx(0, abs=1e-9) and standing.std() == pytest.approx(1)


# --- listeners ---


def test_affinity_is_of_genre_and_mood(world: World) -> None:
    people, c, day = world.listeners, world.catalogue, 4
    for listener in (0, 5):
        for track in range(0, 800, 97):
            expected = 0.0
            for taste in range(4):
                if people.taste_genre[day, listener, taste] == c.genre[track]:
                    same = people.taste_mood[day, listener, taste] == c.mood[track]
                    expected += people.taste_weight[day, listener, taste] * (1 if same else 0.5)
            found = people.affinity(day, np.array(listener), np.array(track))
            assert found == pytest.approx(expected)


def test_tastes_change_as_often_as_is_said(small: SimulationConfig) -> None:
    often = {"change": 0.2}
    changing = World(with_parts(small, listeners=often, queries={"meaning_change": 0.2})).listeners
    still = World(
        with_parts(small, listeners={"change": 0.0, "drift": 0.0}, queries={"meaning_change": 0.0})
    ).listeners
    for name, kinds in (
        ("taste_genre", 8),
        ("taste_mood", 3),
        ("favourites", 80),
        ("sense", 3),
    ):
        values = getattr(changing, name)
        expected = 0.2 * (1 - 1 / kinds)
        assert (values[1:] != values[:-1]).mean() == pytest.approx(expected, abs=0.02), name
        assert (getattr(still, name) == getattr(still, name)[0]).all()
    assert (changing.taste_weight.sum(axis=-1) == pytest.approx(1)) and len(changing.ids) == 150


def test_weights_drift_as_is_said(small: SimulationConfig) -> None:
    drifting = {"spread": 0.9, "memory": 0.5, "drift": 0.3, "count": 2_000}
    weight = World(with_parts(small, listeners=drifting)).listeners.taste_weight
    ratio = np.log(weight[..., 1] / weight[..., 0])  # of two, for only their softmax is seen
    assert ratio[0].std() == pytest.approx(0.9 * np.sqrt(2), rel=0.05)
    stationary = 0.3 / np.sqrt(1 - 0.5**2)
    assert ratio[20:].std() == pytest.approx(stationary * np.sqrt(2), rel=0.02)
    assert np.corrcoef(ratio[20], ratio[21])[0, 1] == pytest.approx(0.5, abs=0.06)


def test_favourites_are_of_genres_that_are_liked(world: World) -> None:
    genre = world.catalogue.artist_genre[world.listeners.favourites[0]]
    liked = world.listeners.taste_genre[0]
    assert (genre[..., np.newaxis] == liked[:, np.newaxis]).any(axis=-1).all()


# --- queries ---


def test_every_query_is_asked_as_often_as_its_kind(world: World) -> None:
    rng = np.random.default_rng(0)
    listener = np.repeat(np.arange(150), 400)
    query = world.queries.draw(rng, 3, listener)
    right = world.queries.spelt_right(query)
    assert (query != right).mean() == pytest.approx(0.05, abs=0.005)
    shares = {
        Kind.ARTIST: 0.18,
        Kind.TRACK: 0.12,
        Kind.GENRE: 0.21,
        Kind.MOOD: 0.07,
        Kind.GENRE_AND_MOOD: 0.07,
        Kind.AMBIGUOUS: 0.35,
    }
    kind = world.queries.kind[right]
    for one, share in shares.items():
        assert (kind == one).mean() == pytest.approx(share, abs=0.01), one


def test_listeners_ask_for_what_they_like(world: World) -> None:
    people, queries, c, day = world.listeners, world.queries, world.catalogue, 3
    listener = np.repeat(np.arange(150), 60)
    query = queries.spelt_right(queries.draw(np.random.default_rng(0), day, listener))
    kind, target = queries.kind[query], queries.target[query]
    for one, asked in (
        (Kind.ARTIST, target),
        (Kind.TRACK, c.artist[np.where(kind == Kind.TRACK, target, 0)]),
    ):
        own = people.favourites[day, listener] == asked[:, np.newaxis]
        assert own.any(axis=1)[kind == one].all()
    liked = people.taste_genre[day, listener] == target[:, np.newaxis]
    assert liked.any(axis=1)[(kind == Kind.GENRE) | (kind == Kind.GENRE_AND_MOOD)].all()
    mood = np.where(kind == Kind.MOOD, target, queries.mood[query])
    both = liked | (kind == Kind.MOOD)[:, np.newaxis]
    both &= people.taste_mood[day, listener] == mood[:, np.newaxis]
    assert both.any(axis=1)[(kind == Kind.MOOD) | (kind == Kind.GENRE_AND_MOOD)].all()
    words = people.words[listener] == target[:, np.newaxis]
    assert words.any(axis=1)[kind == Kind.AMBIGUOUS].all()


def test_a_query_is_the_text_of_what_it_names(world: World) -> None:
    queries, c = world.queries, world.catalogue
    assert len(set(queries.texts[: len(queries)])) == len(queries)
    for number in range(0, len(queries), 7):
        text, target = queries.texts[number], queries.target[number]
        match Kind(queries.kind[number]):
            case Kind.ARTIST:
                assert text == c.artist_names[target]
            case Kind.TRACK:
                assert text == c.titles[target]
            case Kind.GENRE:
                assert set(text.split()) <= set(queries.genre_words[target])
            case Kind.MOOD:
                assert text in queries.mood_words[target]
            case Kind.GENRE_AND_MOOD:
                mood, genre = text.split()
                assert mood in queries.mood_words[queries.mood[number]]
                assert genre in queries.genre_words[target]
            case Kind.AMBIGUOUS:
                assert text == queries.ambiguous_words[target]
    slips = queries.texts[len(queries) :]
    assert sum(slip != text for slip, text in zip(slips, queries.texts, strict=False)) > 0.9 * len(
        slips
    )


def test_relevance_by_kind(world: World) -> None:
    queries, c, people, day = world.queries, world.catalogue, world.listeners, 9
    tracks = np.arange(800)
    for number in [*range(0, len(queries), 11), *range(len(queries) - 24, len(queries))]:
        target, listener = queries.target[number], np.array(number % 150)
        found = queries.relevance(day, listener, np.array(number), tracks)
        slip = queries.relevance(day, listener, np.array(number + len(queries)), tracks)
        np.testing.assert_array_equal(slip, found)
        match Kind(queries.kind[number]):
            case Kind.ARTIST:
                expected = c.artist == target
            case Kind.TRACK:
                expected = 0.3 * (c.artist == c.artist[target])
                expected[c.song == c.song[target]] = 0.7
                expected[target] = 1
            case Kind.GENRE:
                expected = c.genre == target
            case Kind.MOOD:
                expected = c.mood == target
            case Kind.GENRE_AND_MOOD:
                expected = 0.5 * (c.genre == target) + 0.5 * (c.mood == queries.mood[number])
            case Kind.AMBIGUOUS:
                sense = people.sense[day, listener, target]
                expected = c.genre == people.senses[target, sense]
        np.testing.assert_allclose(found, expected)


def test_equal_intents_want_equal_things(world: World) -> None:
    """What is meant names the artist or the genre or the mood of all that is fully relevant."""
    queries, c, day = world.queries, world.catalogue, 9
    number = np.arange(2 * len(queries))
    listener = number % 150
    intent = queries.intent(day, listener, number)
    tracks = np.arange(800)
    moods = c.config.artists + c.config.genres
    relevance = queries.relevance(day, listener[:, None], number[:, None], tracks)
    for one, wanted in zip(intent, relevance == 1, strict=True):
        if one < c.config.artists:
            assert (c.artist[wanted] == one).all()
        elif one < moods:
            assert (c.genre[wanted] == one - c.config.artists).all()
        else:
            assert (c.mood[wanted] == one - moods).all()
    ambiguous = queries.kind[queries.spelt_right(number)] == Kind.AMBIGUOUS
    assert len(set(queries.intent(day, np.arange(150), number[ambiguous][0]))) == 3


def test_a_meaning_is_of_no_taste(world: World) -> None:
    """Neither the word nor who likes what tells it."""
    people = world.listeners
    listener, word = np.nonzero(np.ones((150, 24)))
    meant = people.meant(0, listener, word)
    shares = np.bincount(people.sense[0].ravel(), minlength=3) / people.sense[0].size
    assert shares == pytest.approx([1 / 3] * 3, abs=0.03)
    liked = (people.taste_genre[0, listener] == meant[:, np.newaxis]).any(axis=1).mean()
    assert liked == pytest.approx(4 / 8, abs=0.03)  # four of eight genres are liked


# --- first stage ---


def test_what_is_found_matches_the_words(world: World) -> None:
    queries, c, stage = world.queries, world.catalogue, world.first_stage
    for number in range(0, len(queries), 13):
        lexical = stage.lexical(np.array([number]))[0]
        assert lexical.min() >= 0 and lexical.max() == pytest.approx(1)
        target = queries.target[number]
        full = np.flatnonzero(np.isclose(lexical, 1))
        match Kind(queries.kind[number]):
            case Kind.ARTIST:
                assert (c.artist[full] == target).all()
            case Kind.TRACK:
                assert target in full and (c.song[full] == c.song[target]).all()
            case Kind.GENRE:
                assert (c.genre[full] == target).all()
            case Kind.MOOD:
                assert (c.mood[full] == target).all()
            case Kind.AMBIGUOUS:
                assert set(c.genre[full]) == set(world.listeners.senses[target])


def test_most_slips_find_what_was_meant(world: World) -> None:
    queries, stage = world.queries, world.first_stage
    right = np.arange(0, len(queries), 5)
    meant, typed = stage.lexical(right), stage.lexical(right + len(queries))
    best = typed.argmax(axis=1)
    assert np.isclose(meant[np.arange(len(right)), best], 1).mean() > 0.6


def test_candidates_are_the_best_of_the_day(small: SimulationConfig) -> None:
    config = with_parts(small, first_stage={"jitter": 0.0})
    world = World(config)
    query = np.array([0, 90, len(world.queries) - 1, 90])
    track, score, mask = world.first_stage.candidates(np.random.default_rng(0), 12, query)
    everything = 10 * world.first_stage.lexical(query) + world.catalogue.standing(12)
    for row in range(4):
        length = mask[row].sum()
        assert config.first_stage.shortest_list <= length <= config.first_stage.longest_list
        best = np.sort(everything[row])[::-1][:length]
        np.testing.assert_allclose(score[row, :length], best, atol=1e-5)
        np.testing.assert_allclose(everything[row, track[row, :length]], best, atol=1e-5)
        assert (world.catalogue.released[track[row, :length]] <= 12).all()
        assert len(set(track[row, :length])) == length
    shorter = min(mask[1].sum(), mask[3].sum())
    np.testing.assert_array_equal(track[1, :shorter], track[3, :shorter])  # whoever asks
