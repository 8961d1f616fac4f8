"""Signatures of thinking blocks outlive restarts, and tell ours from others'."""

import stat
import threading

from structlog.testing import capture_logs

from pensieved.http.anthropic.signature import Origin, Signer


def test_ours_is_known_after_a_restart(tmp_path):
    path = tmp_path / "state" / "key"
    signature = Signer(path).sign("hm 🙂")
    assert Signer(path).origin("hm 🙂", signature) is Origin.OURS
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert list(path.parent.iterdir()) == [path]


def test_another_text_is_forged(tmp_path):
    signer = Signer(tmp_path / "key")
    signature = signer.sign("hm")
    assert signer.origin("ho", signature) is Origin.FORGED
    assert signer.origin("hm", signature[:-2]) is Origin.FORGED
    assert signer.origin("hm", signature + "é") is Origin.FORGED


def test_anothers_is_foreign(tmp_path):
    signer = Signer(tmp_path / "key")
    for signature in ("", "EqoBCkgIARABGAIiQL2U", "pensieved.", Signer(tmp_path / "other").sign("hm")):
        assert signer.origin("hm", signature) is Origin.FOREIGN


def test_two_at_once_agree(tmp_path):
    signatures = []
    signers = [Signer(tmp_path / "key") for _ in range(8)]
    threads = [threading.Thread(target=lambda s=s: signatures.append(s.sign("x"))) for s in signers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(signatures)) == 1


def test_a_damaged_key_is_replaced(tmp_path):
    path = tmp_path / "key"
    path.write_bytes(b"short")
    signature = Signer(path).sign("x")
    assert len(path.read_bytes()) == 32
    assert Signer(path).origin("x", signature) is Origin.OURS


def test_where_no_key_can_be_kept_blocks_last_as_long_as_the_process(tmp_path):
    (tmp_path / "file").write_text("no folder")
    with capture_logs() as logs:
        signer = Signer(tmp_path / "file" / "key")
        assert signer.origin("x", signer.sign("x")) is Origin.OURS
    about = [line for line in logs if line["event"].startswith("thinking blocks cannot be checked")]
    assert [line["log_level"] for line in about] == ["warning"]
