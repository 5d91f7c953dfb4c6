"""Money: what is left, what was spent, and how more comes in."""

from tuneyard.cli.context import Context
from tuneyard.cli.exits import OK
from tuneyard.cli.options import Commands, add_page, command
from tuneyard.cli.text import moment, money, pairs, table
from tuneyard.types import Balance, BillingSummary, CardPage, LedgerEntry, Page


def add(commands: Commands) -> None:
    one = command(commands, "balance", balance, "show what can be spent")
    instead = one.add_mutually_exclusive_group()
    instead.add_argument("--summary", action="store_true", help="also what was spent, and on what")
    instead.add_argument("--ledger", action="store_true", help="every movement of money instead")
    add_page(one)
    command(commands, "card", card, "get a page on which a card is saved for later jobs")
    one = command(commands, "top-up", top_up, "get a page on which the balance is filled up")
    one.add_argument("amount_cents", type=int, metavar="CENTS")


def balance(
    context: Context, *, summary: bool, ledger: bool, limit: int | None, cursor: str | None
) -> int:
    with context.client() as client:
        billing = client.billing.with_raw_response
        if ledger:
            context.page(billing.ledger(limit=limit, cursor=cursor), _ledger)
        elif summary:
            context.reply(billing.summary(), _summary)
        else:
            context.reply(billing.balance(), _balance)
    return OK


def _balance(of: Balance) -> str:
    return money(of.balance_cents, of.currency)


def _summary(of: BillingSummary) -> object:
    return pairs(
        [
            ("balance", money(of.balance_cents, of.currency)),
            ("reserved", money(of.reserved_cents, of.currency)),
            ("spent", money(of.lifetime_spend_cents, of.currency)),
            ("jobs charged", of.jobs_charged),
            (
                "storage",
                f"{money(of.storage_extension_cents, of.currency)}"
                f" for {of.storage_extensions} extensions",
            ),
        ]
    )


def _ledger(page: Page[LedgerEntry]) -> object:
    return table(
        ("when", "amount", "balance", "what"),
        [
            (
                moment(each.created_at),
                f"{each.amount_cents / 100:+,.2f}",
                f"{each.balance_after_cents / 100:,.2f}",
                each.memo,
            )
            for each in page.data
        ],
        right="amount balance",
    )


def card(context: Context) -> int:
    with context.client() as client:
        context.reply(client.billing.with_raw_response.set_up_card(), _page)
    return OK


def top_up(context: Context, *, amount_cents: int) -> int:
    with context.client() as client:
        context.reply(client.billing.with_raw_response.top_up(amount_cents=amount_cents), _page)
    return OK


def _page(page: CardPage) -> str:
    return f"open it in a browser before {moment(page.expires_at)}:\n{page.checkout_url}"
