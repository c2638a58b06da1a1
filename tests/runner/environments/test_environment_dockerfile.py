import pytest

from runner.environments.base import EnvironmentStartError
from runner.environments.dockerfile import parse_dockerfile


@pytest.fixture
def parse(tmp_path):
    def parse(text: str):
        path = tmp_path / "Dockerfile"
        path.write_text(text)
        return parse_dockerfile(path)

    return parse


def test_the_subset_is_read_whole(parse):
    recipe = parse(
        "# a comment\nFROM debian:bookworm AS base\n\nENV A=1 B='two words' \\\n    # inside\n"
        '    C="$A x"\n'
        "ENV OLD style value\nWORKDIR /app\nWORKDIR sub/${A}\nCOPY a.txt b.txt dest/\nCOPY . /data\n"
        'COPY ["with space.txt", "."]\nENV D=${NOPE:-fallback} E=$C\n'
    )
    assert recipe.base_image == "debian:bookworm"
    assert recipe.workdir == "/app/sub/1"
    assert dict(recipe.env) == {
        **{"A": "1", "B": "two words", "C": " x", "OLD": "style value", "D": "fallback", "E": " x"}
    }
    assert [(step.sources, step.target) for step in recipe.copies] == [
        (("a.txt", "b.txt"), "/app/sub/1/dest/"),
        ((".",), "/data"),
        (("with space.txt",), "/app/sub/1/"),
    ]


def test_without_workdir_it_is_app(parse):
    assert parse("FROM x\n").workdir == "/app"


@pytest.mark.parametrize(
    ("line", "what"),
    [
        ("RUN apt-get update", "RUN"),
        ("USER nobody", "USER"),
        ("COPY --from=base /x /y", "COPY --from=base"),
        ("COPY <<EOF /x", "COPY"),
        ("FROM y", "a second FROM"),
        ("ADD a b", "ADD"),
    ],
)
def test_anything_else_is_refused_by_name_and_line(parse, line, what):
    with pytest.raises(EnvironmentStartError, match=rf"Dockerfile: line 3: {what}.* needs Docker"):
        parse(f"FROM x\n\n{line}\n")


def test_no_from_is_no_dockerfile(parse):
    with pytest.raises(EnvironmentStartError, match="has no FROM"):
        parse("# nothing\n")
