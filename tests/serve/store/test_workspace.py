"""Fine-tuned models of a workspace, found by their names on both stores."""

import pytest
from sqlalchemy import event

from burnish.serve.auth.tenant import as_organization
from burnish.serve.store.jobs import record_checkpoints
from burnish.serve.store.workspace import Workspace
from tests.serve.store.test_schema import new_job

COUNT = 40


@pytest.fixture
def workspace(store, jobs, tmp_path):
    """A workspace with many models, of each a checkpoint on the way and the one that became it."""
    for number in range(COUNT):
        name = f"ft:tiny:{number}"
        job = new_job(jobs, number, status="succeeded", fine_tuned_model=name)
        with store.writing() as session:
            steps = {1: f"{name}:ckpt-step-1", 2: name}
            record_checkpoints(
                session,
                job,
                [
                    {"step": step, "name": model, "folder": f"steps/{step}", "metrics": {}}
                    for step, model in steps.items()
                ],
            )
    return Workspace(store, tmp_path)


def test_each_listed_model_is_found_by_its_name(workspace):
    listed = workspace.list_fine_tuned()

    assert len(listed) == 2 * COUNT
    assert [workspace.find_fine_tuned(model.name) for model in listed] == list(listed)


@pytest.mark.parametrize("name", ["tiny", "ft:tiny:", "ft:tiny:99", "", "ft:\0", "ft:\ud800"])
def test_a_name_that_no_job_has_made_is_not_found(workspace, name):
    assert workspace.find_fine_tuned(name) is None


@pytest.mark.parametrize("name", ["ft:tiny:3", "ft:tiny:3:ckpt-step-1"])
def test_a_deleted_model_is_not_found_and_the_others_are(workspace, name):
    workspace.delete_model(name)

    assert workspace.find_fine_tuned(name) is None
    assert name not in {model.name for model in workspace.list_fine_tuned()}
    assert len(workspace.list_fine_tuned()) == 2 * COUNT - 1


@pytest.mark.parametrize("name", ["ft:tiny:3", "ft:tiny:3:ckpt-step-1"])
def test_a_model_of_another_organisation_is_not_found(workspace, name):
    with as_organization("other"):
        assert workspace.find_fine_tuned(name) is None
    with as_organization("burnish"):
        assert workspace.find_fine_tuned(name)


@pytest.mark.parametrize("url", ["sqlite"], indirect=True)
def test_a_model_is_found_by_indexes_and_not_by_reading_all(workspace, store):
    asked = []

    def note(connection, cursor, statement, parameters, context, many):
        asked.append((statement, parameters))

    event.listen(store._engine, "before_cursor_execute", note)
    with as_organization("burnish"):
        assert workspace.find_fine_tuned("ft:tiny:7:ckpt-step-1")
    event.remove(store._engine, "before_cursor_execute", note)

    selects = [one for one in asked if one[0].startswith("SELECT")]
    assert len(selects) == 3
    with store.reading() as session:
        for statement, parameters in selects:
            explained = f"EXPLAIN QUERY PLAN {statement}"
            for step in session.connection().exec_driver_sql(explained, parameters):
                assert step.detail.startswith("SEARCH") and "organization" not in step.detail, step
