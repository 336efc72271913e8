"""What the load generator sends is what the server's own rules call valid, and what it reads is
cut where the frames are."""

from __future__ import annotations

from websockets.frames import Frame, Opcode

from plugins.secure_chat.bench.servers import cpu_of_stat, groups_of_metrics
from plugins.secure_chat.bench.workload import (
    CIPHERTEXT_SIZE,
    FULL,
    QUICK,
    FrameSplitter,
    Signer,
    client_frames,
    message,
    receiver,
    sender,
)
from plugins.secure_chat.core.envelope import ChatMessage, validate
from plugins.secure_chat.core.frames import parse_frame
from plugins.secure_chat.core.identifiers import canonical
from plugins.secure_chat.crypto.primitives import ed25519_public
from plugins.secure_chat.directory.verification import job, verify_batch
from plugins.secure_chat.metrics import Metrics


def test_a_message_passes_every_rule_of_the_server() -> None:
    frame = parse_frame(message(receiver(3), 17))
    assert isinstance(frame, ChatMessage)
    envelope = validate(frame, sender(3))
    assert (envelope.recipient, envelope.seq, envelope.size) == (receiver(3), 17, CIPHERTEXT_SIZE)


def test_a_signed_message_bears_a_signature_that_the_server_takes() -> None:
    signer = Signer(sender(1), "bench", bytes(32))
    frame = parse_frame(message(receiver(1), 3, signer))
    assert isinstance(frame, ChatMessage)
    envelope = validate(frame, signer.wallet)
    public = ed25519_public(signer.seed)
    assert verify_batch([job(public, envelope), job(bytes(32), envelope)]) == [True, False]


def test_no_two_wallets_of_a_run_are_the_same() -> None:
    pairs = max(scenario.pairs for scenario in FULL + QUICK)
    wallets = [named(pair) for pair in range(pairs) for named in (sender, receiver)]
    assert len(set(wallets)) == 2 * pairs
    assert all(canonical(wallet, "wallet") == wallet for wallet in wallets)


def test_every_scenario_gives_each_pair_the_same_number_of_messages() -> None:
    for scenario in FULL + QUICK:
        assert scenario.messages % scenario.pairs == 0


def test_frames_are_masked_and_their_seq_rises() -> None:
    frames = client_frames(receiver(0), 5, 3)
    assert all(frame[0] == 0x81 and frame[1] & 0x80 for frame in frames)
    assert len(set(frames)) == 3


def test_frames_are_found_wherever_the_network_cuts_them() -> None:
    payloads = [b"", b"a" * 125, b"b" * 126, b"c" * 65_535, b"d" * 65_536, b"end"]
    stream = b"".join(Frame(Opcode.TEXT, data).serialize(mask=False) for data in payloads)
    for size in (1, 2, 3, 127, 4096, len(stream)):
        splitter = FrameSplitter()
        found = [
            payload
            for at in range(0, len(stream), size)
            for opcode, payload in splitter.feed(stream[at : at + size])
            if opcode == 1
        ]
        assert found == payloads


def test_cpu_time_is_read_behind_whatever_the_process_is_called() -> None:
    times = "S 1 1 1 0 -1 4194560 100 0 0 0 150 50 0 0 20 0 5 0 100"
    assert cpu_of_stat(f"42 (a (b) 9 9) {times}") == cpu_of_stat(f"42 (python) {times}") > 0


def test_group_sizes_are_read_from_the_metrics_that_the_server_really_exposes() -> None:
    metrics = Metrics()
    metrics.committed(10, 0.001)
    metrics.committed(30, 0.001)
    assert groups_of_metrics(metrics.exposition().decode()) == (2.0, 40.0)
