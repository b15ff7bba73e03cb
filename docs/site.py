"""Build the documentation as a website in .build/docs/site, without the network: README, guides, references, decisions.

`make docs` runs it with the zensical of requirements/docs.lock.
"""

import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
BUILD = ROOT / ".build" / "docs"
SITE = BUILD / "site"
ZENSICAL = ROOT / ".venv-docs" / "bin" / "zensical"

GUIDES = (
    "contract",
    "operations",
    "completeness",
    "deployment",
    "cost",
    "architecture",
    "testing",
    "benchmarks",
    "dependencies",
)
REFERENCES = {"Command line": "reference/cli.md", "HTTP API": "reference/api.md", "cells.yaml": "reference/cells.md"}
INCLUDED = {"cells.yaml": "yaml", "bench/RESULTS.md": "", "statemachines/invoice_lifecycle.asl.json": "json"}
"""Files outside docs that pages link to, and the language they are shown in; "" for Markdown."""


def main() -> None:
    shutil.rmtree(BUILD, ignore_errors=True)
    pages = BUILD / "pages"
    shutil.copytree(ROOT / "docs", pages, ignore=shutil.ignore_patterns("*.py", "__pycache__"))
    (pages / "index.md").write_text((ROOT / "README.md").read_text(encoding="utf-8").replace("](docs/", "]("), "utf-8")
    (pages / "changelog.md").write_text((ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), "utf-8")
    for name, language in INCLUDED.items():
        text = (ROOT / name).read_text(encoding="utf-8")
        page = pages / "files" / f"{Path(name).name}.md"
        page.parent.mkdir(exist_ok=True)
        page.write_text(f"# {name}\n\n```{language}\n{text}```\n" if language else text, "utf-8")
    for page in pages.rglob("*.md"):
        page.write_text(_with_links(page.read_text(encoding="utf-8"), page.relative_to(pages)), "utf-8")
    (BUILD / "zensical.toml").write_text(_configuration(pages), "utf-8")
    built = subprocess.run([ZENSICAL, "build", "--clean"], cwd=BUILD, capture_output=True, text=True, check=False)
    if built.returncode or "issues found" in built.stdout:
        sys.exit(f"the site has broken links or cannot be built:\n{built.stdout}{built.stderr}")
    print(SITE.relative_to(ROOT) / "index.html")


def _with_links(text: str, page: Path) -> str:
    """Return the page with links to included files pointing to their pages."""
    up = "../" * (len(page.parts) - 1)
    for name in INCLUDED:
        text = re.sub(rf"\]\((?:\.\./)*{re.escape(name)}", f"]({up}files/{Path(name).name}.md", text)
    text = re.sub(r"\]\((?:\.\./)*CHANGELOG\.md", f"]({up}changelog.md", text)
    return text.replace("](decisions/)", "](decisions/001-step-functions.md)")


def _configuration(pages: Path) -> str:
    decisions = sorted(path.relative_to(pages).as_posix() for path in (pages / "decisions").glob("*.md"))
    references = ", ".join(
        f'{{ "{title}" = "{path}" }}' for title, path in REFERENCES.items() if (pages / path).exists()
    )
    return f"""[project]
site_name = "BEMS"
site_description = "Tracks every invoice's lifecycle and finds the ones that are stuck"
docs_dir = "pages"
site_dir = "{SITE.name}"
nav = [
  {{ "BEMS" = "index.md" }},
  {{ "Guides" = [{", ".join(f'"{guide}.md"' for guide in GUIDES)}] }},
  {{ "Reference" = [{references}] }},
  {{ "Decisions" = [{", ".join(f'"{path}"' for path in decisions)}] }},
  {{ "Changelog" = "changelog.md" }},
]

[project.theme]
font = false
"""


if __name__ == "__main__":
    main()
