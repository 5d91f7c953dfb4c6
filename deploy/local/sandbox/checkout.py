"""Checkout sessions: what a page sells or saves, and what follows when a person has done it."""

from typing import Any
from urllib.parse import urlsplit

from deploy.local.sandbox import payments, setups, subscriptions
from deploy.local.sandbox.book import Book, Routes, retrieve
from deploy.local.sandbox.cards import TestCard
from deploy.local.sandbox.customers import new_card
from deploy.local.sandbox.form import Params
from deploy.local.sandbox.invoices import intent_of, settle
from deploy.local.sandbox.line_items import sold
from deploy.local.sandbox.listing import listed, whole
from deploy.local.sandbox.refusal import Object, Refused, missing_parameter

DAY = 86_400
SHORTEST_SECONDS = 1_800
LONGEST_SECONDS = DAY
ID_PLACE = "{CHECKOUT_SESSION_ID}"

WITHOUT_USE_HERE = (
    "allow_promotion_codes",
    "automatic_tax",
    "billing_address_collection",
    "consent_collection",
    "custom_text",
    "customer_update",
    "invoice_creation",
    "locale",
    "payment_method_collection",
    "payment_method_options",
    "phone_number_collection",
    "saved_payment_method_options",
    "submit_type",
    "tax_id_collection",
)


def create_session(book: Book, params: Params) -> Object:
    mode = params.choice("mode", "payment", "setup", "subscription")
    if mode is None:
        raise missing_parameter("mode")
    customer = params.text("customer")
    if customer is not None:
        book.referred("customer", customer, "customer")
    elif mode != "payment":
        raise Refused("The sandbox saves cards only for a customer.", param="customer")
    params.accept(*WITHOUT_USE_HERE)
    types = params.texts("allowed_payment_method_types") or params.texts("payment_method_types")
    success_url, cancel_url = _address(params, "success_url"), _address(params, "cancel_url")
    if success_url is None:
        raise missing_parameter("success_url")
    params.choice("ui_mode", "hosted_page")
    now, id = book.now(), book.new_id("cs_test")
    expires_at = params.integer("expires_at") or now + LONGEST_SECONDS
    if not now + SHORTEST_SECONDS <= expires_at <= now + LONGEST_SECONDS:
        raise Refused("expires_at: between 30 minutes and 24 hours from now.", param="expires_at")
    items, currency = sold(book, params, mode)
    if mode == "setup" and currency is None and not types:
        raise missing_parameter("currency")
    total = sum(item["amount_total"] for item in items)
    session: Object = {
        "id": id,
        "object": "checkout.session",
        "amount_subtotal": total if items else None,
        "amount_total": total if items else None,
        "automatic_tax": {"enabled": False, "liability": None, "provider": None, "status": None},
        "cancel_url": cancel_url,
        "client_reference_id": params.text("client_reference_id"),
        "client_secret": None,
        "created": now,
        "currency": currency,
        "custom_fields": [],
        "customer": customer,
        "customer_creation": params.choice("customer_creation", "always", "if_required"),
        "customer_details": None,
        "customer_email": params.text("customer_email"),
        "expires_at": expires_at,
        "invoice": None,
        "livemode": False,
        "metadata": params.metadata(),
        "mode": mode,
        "payment_intent": None,
        "payment_method_types": types or ["card"],
        "payment_status": "no_payment_required" if mode == "setup" else "unpaid",
        "setup_intent": None,
        "shipping_options": [],
        "status": "open",
        "subscription": None,
        "success_url": success_url,
        "total_details": {"amount_discount": 0, "amount_shipping": 0, "amount_tax": 0},
        "ui_mode": "hosted_page",
        "url": f"{book.base_url}/pay/{id}",
        "_line_items": whole(items, f"/v1/checkout/sessions/{id}/line_items"),
    } | _data(book, params, mode)
    if mode == "setup":
        chosen = {"customer": customer, "_session": id, **session["_data"]}
        session["setup_intent"] = setups.new_setup(book, **chosen)["id"]
    return book.save(session)


def _data(book: Book, params: Params, mode: str) -> Object:
    """What the session hands on to the object that it makes."""
    own = {"payment": "payment_intent_data", "setup": "setup_intent_data"}
    name = own.get(mode, "subscription_data")
    for other in ("payment_intent_data", "setup_intent_data", "subscription_data"):
        if other != name and params.has(other):
            raise Refused(f"`{other}` can not be used in `{mode}` mode.", param=other)
    asked = params.group(name)
    data: dict[str, Any] = {"metadata": asked.metadata()}
    if asked.has("description"):
        data["description"] = asked.text("description")
    if mode == "payment":
        for text in ("receipt_email", "statement_descriptor", "statement_descriptor_suffix"):
            data[text] = asked.text(text)
        usage = asked.choice("setup_future_usage", "off_session", "on_session")
        data["setup_future_usage"] = usage
    return {"_data": data}


def _address(params: Params, name: str) -> str | None:
    value = params.text(name)
    if value is not None:
        refused = Refused("Not a valid URL", code="url_invalid", param=name)
        try:
            address = urlsplit(value.replace(ID_PLACE, "id"))
        except ValueError:
            raise refused from None
        if address.scheme not in ("http", "https") or not address.netloc:
            raise refused
    return value


def must_be_open(session: Object) -> None:
    if session["status"] != "open":
        raise Refused(
            'Only Checkout Sessions with a status in ["open"] can be paid or expired. This one '
            f"has a status of {session['status']}."
        )


def expire_session(book: Book, _: Params, id: str) -> Object:
    session = book.get("checkout.session", id)
    must_be_open(session)
    return expire(book, session)


def expire(book: Book, session: Object) -> Object:
    session |= {"status": "expired", "url": None}
    book.emit("checkout.session.expired", book.save(session))
    return session


def expire_due(book: Book) -> None:
    """Whatever page nobody has used in time."""
    now = book.now()
    for session in book.store.find("checkout.session", {"status": "open"}):
        if session["expires_at"] <= now:
            expire(book, session)


def submit(book: Book, session: Object, test_card: TestCard) -> Object:
    """A person has chosen a card on the page. The setup or payment intent afterwards."""
    must_be_open(session)
    card = new_card(book, test_card)
    match session["mode"]:
        case "setup":
            setup = book.get("setup_intent", session["setup_intent"])
            setup["payment_method"] = card["id"]
            done = setups.confirm(book, setup, return_url=session["success_url"])
        case _:
            intent = _intent(book, session)
            intent["payment_method"] = card["id"]
            done = payments.confirm(book, intent, return_url=session["success_url"])
    if done["status"] == "succeeded":
        complete(book, session, done)
    return done


def _intent(book: Book, session: Object) -> Object:
    """Made at the first attempt, as Stripe does; later attempts go on with it."""
    if session["mode"] == "subscription":
        if "_subscription" not in session:
            item = session["_line_items"]["data"][0]
            made = subscriptions.new_subscription(
                book,
                session["customer"],
                item["price"],
                quantity=item["quantity"],
                metadata=session["_data"]["metadata"],
            )
            book.save(session | {"_subscription": made["id"]})
            session["_subscription"] = made["id"]
        subscription = book.get("subscription", session["_subscription"])
        intent = intent_of(book, book.get("invoice", subscription["latest_invoice"]))
        return intent | {"_session": session["id"]}
    if session["payment_intent"] is None:
        intent = payments.new_intent(
            book,
            amount=session["amount_total"],
            currency=session["currency"],
            customer=session["customer"],
            _session=session["id"],
            **session["_data"],
        )
        session["payment_intent"] = intent["id"]
        book.save(session)
        return intent
    return book.get("payment_intent", session["payment_intent"])


def complete(book: Book, session: Object, done: Object) -> Object:
    """Its intent succeeded: the session is over."""
    email = session["customer_email"]
    if session["customer"] is not None:
        email = book.get("customer", session["customer"])["email"]
    session |= {
        "status": "complete",
        "url": None,
        "customer_details": {"address": None, "email": email, "name": None, "phone": None},
    }
    if session["mode"] != "setup":
        session["payment_status"] = "paid"
    if session["mode"] == "subscription":
        subscription = book.get("subscription", session["_subscription"])
        invoice = book.get("invoice", subscription["latest_invoice"])
        settle(book, invoice, done)
        subscriptions.begin(book, subscription, done["payment_method"])
        session |= {"subscription": subscription["id"], "invoice": invoice["id"]}
    book.emit("checkout.session.completed", book.save(session))
    return session


def success_address(session: Object) -> str:
    return str(session["success_url"]).replace(ID_PLACE, session["id"])


def list_line_items(book: Book, params: Params, id: str) -> Object:
    params.accept("limit")
    items: Object = book.get("checkout.session", id)["_line_items"]
    return items


ROUTES: Routes = {
    ("POST", "/v1/checkout/sessions"): create_session,
    ("GET", "/v1/checkout/sessions"): listed(
        "checkout.session",
        "/v1/checkout/sessions",
        customer="customer",
        status="status",
        payment_intent="payment_intent",
        subscription="subscription",
    ),
    ("GET", "/v1/checkout/sessions/*"): retrieve("checkout.session"),
    ("POST", "/v1/checkout/sessions/*/expire"): expire_session,
    ("GET", "/v1/checkout/sessions/*/line_items"): list_line_items,
}
