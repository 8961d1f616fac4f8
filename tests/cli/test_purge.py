"""What goes with the models when everything of an agent is removed."""

from pensieved.cli.purge import _remove_models


def test_what_people_said_goes_too_and_what_is_not_ours_stays(tmp_path):
    entry = tmp_path / "prompts" / "model+one" / "entry.kv"
    entry.parent.mkdir(parents=True)
    entry.write_bytes(b"x")
    (tmp_path / "notes.txt").write_text("mine")
    assert f"removed  {tmp_path / 'prompts'}" in list(_remove_models(tmp_path))
    assert not (tmp_path / "prompts").exists()
    assert (tmp_path / "notes.txt").exists()
