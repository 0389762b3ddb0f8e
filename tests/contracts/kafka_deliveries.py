"""What a delivery to Kafka promises, against whatever broker the fixture `kafka_settings` names."""

from __future__ import annotations

import json
from uuid import uuid4

from infrastructure import journal
from infrastructure.settings import Settings
from tests.journals import consume, first_occurrences, on_a_loop, stage


def an_actor() -> str:
    return f"ledger:{uuid4().hex[:12]}"


class KafkaDeliveries:
    """Subclassed with a broker."""

    @on_a_loop
    async def test_events_arrive_in_order_with_the_journals_bytes(self, kafka_settings: Settings) -> None:
        actor, other = an_actor(), an_actor()
        async with stage(kafka_settings) as on:
            written = await on.write(actor, 1_500)
            others = await on.write(other, 10)
            while await on.deliveries.deliver("kafka", actor):
                pass
            await on.deliveries.deliver("kafka", other)
            received = consume(kafka_settings, actor, last=1_500)
            assert [one.value for one in received] == written
            assert len({one.partition for one in received}) == 1
            assert [one.value for one in consume(kafka_settings, other, last=10)] == others
            assert not [key for key in await on.behind() if key[0] == "kafka"]

    @on_a_loop
    async def test_a_message_is_a_cloud_event_in_binary_mode(self, kafka_settings: Settings) -> None:
        actor = an_actor()
        async with stage(kafka_settings) as on:
            await on.write(actor, 2)
            await on.deliveries.deliver("kafka", actor)
            second = consume(kafka_settings, actor, last=2)[1]
            entry = json.loads(second.value)
            assert {name: value.decode() for name, value in second.headers.items()} == {
                "ce_specversion": "1.0",
                "ce_id": f"{actor}/1/2",
                "ce_source": f"urn:daybook:{actor}",
                "ce_type": "daybook.ledger.TransactionPosted",
                "ce_subject": actor.removeprefix("ledger:"),
                "ce_time": entry["recorded_at"],
                "ce_sequence": "00000000000000000002",
                "ce_epoch": "1",
                "ce_correlationid": "correlation-2",
                "content-type": "application/json",
            }

    @on_a_loop
    async def test_death_between_the_brokers_answer_and_the_new_position_repeats_the_same_bytes(
        self, kafka_settings: Settings
    ) -> None:
        actor = an_actor()
        async with stage(kafka_settings) as on:
            written = await on.write(actor, 20)
            await on.deliveries.deliver("kafka", an_actor())
            dying = await journal.lease(on.pool, "kafka", actor, seconds=0)
            assert dying is not None
            lines = await journal.page(on.pool, actor, dying.position, lines=12, size=10**9)
            while True:
                try:
                    await on.subscribers["kafka"].publish(actor, lines)
                    break
                except Exception as error:
                    assert type(error).__name__ == "Rewound"
            await on.write(actor, 5)
            after = on.restarted()
            await after.deliveries.deliver("kafka", actor)
            await after.deliveries.close()
            received = consume(kafka_settings, actor, last=25)
            assert len(received) == 12 + 25
            assert first_occurrences(received) == list(range(1, 26))
            assert {one.value for one in received[:12]} == set(written[:12])
            assert [one.value for one in received[:12]] == [one.value for one in received[12:24]]

    @on_a_loop
    async def test_replay_publishes_again_from_any_seq(self, kafka_settings: Settings) -> None:
        actor = an_actor()
        async with stage(kafka_settings) as on:
            written = await on.write(actor, 9)
            while await on.deliveries.deliver("kafka", actor):
                pass
            found = [one async for one in journal.set_back(on.pool, "kafka", from_seq=5, actor=actor)]
            assert found == [{actor: 5}]
            assert (await on.behind())["kafka", actor] == (4, 9)
            await on.deliveries.deliver("kafka", actor)
            received = consume(kafka_settings, actor, last=9)
            assert [one.value for one in received] == written + written[4:]

    @on_a_loop
    async def test_the_largest_event_fits(self, kafka_settings: Settings) -> None:
        actor = an_actor()
        async with stage(kafka_settings) as on:
            written = await on.write(actor, 3)
            await on.deliveries.deliver("kafka", actor)
            huge = journal.Line(4, 1, written[-1].replace(b'/3"', b'/4"')[:-1] + b" " * 6_000_000 + b"}")
            await on.subscribers["kafka"].publish(actor, [huge])
            assert consume(kafka_settings, actor, last=4)[-1].value == huge.event
