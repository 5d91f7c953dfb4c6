"""Which question is answered by what."""

from functools import partial

from faststream.nats import NatsBroker

from libs.bus.rpc import answer
from libs.contracts import webhooks_rpc
from services.webhooks import deliveries, endpoints
from services.webhooks.answering import Answering


def answer_questions(broker: NatsBroker, answering: Answering) -> None:
    """Answer what customers ask about their endpoints."""
    answer(broker, webhooks_rpc.CREATE, partial(endpoints.create_endpoint, answering))
    answer(broker, webhooks_rpc.LIST, partial(endpoints.list_endpoints, answering))
    answer(broker, webhooks_rpc.GET, partial(endpoints.get_endpoint, answering))
    answer(broker, webhooks_rpc.CHANGE, partial(endpoints.change_endpoint, answering))
    answer(broker, webhooks_rpc.REMOVE, partial(endpoints.remove_endpoint, answering))
    answer(broker, webhooks_rpc.ROTATE, partial(endpoints.rotate_secret, answering))
    answer(broker, webhooks_rpc.DISABLED, partial(endpoints.list_disabled, answering))
    answer(broker, webhooks_rpc.PING, partial(deliveries.send_ping, answering))
    answer(broker, webhooks_rpc.DELIVERIES, partial(deliveries.list_deliveries, answering))
    answer(broker, webhooks_rpc.REDELIVER, partial(deliveries.redeliver, answering))
    answer(broker, webhooks_rpc.RECOVER, partial(deliveries.recover, answering))
