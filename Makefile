# Short names for the project's scripts; each works without make too.
.PHONY: demo test lint format docs site fault-tests

demo:         ## set up and run every stage on a small built-in set
	bash infra/demo.sh

test:         ## set up, run all checks and the tests, as CI does
	bash infra/test.sh

lint:         ## formatting, lint, types, import contracts
	.venv/bin/ruff format --check . && .venv/bin/ruff check . && .venv/bin/codespell .github conf docs infra jobs lib tests *.md pyproject.toml
	.venv/bin/mypy && .venv/bin/lint-imports --no-logo

format:       ## format the code
	.venv/bin/ruff format . && .venv/bin/ruff check --fix .

docs:         ## regenerate the pages that are made from code
	.venv/bin/python infra/tables_doc.py > docs/tables.md
	.venv/bin/python infra/config_doc.py > docs/configuration.md

site:         ## build the documentation site into build/site
	bash infra/docs.sh

fault-tests:  ## the long fault suites (hours)
	bash infra/test.sh -m slow
