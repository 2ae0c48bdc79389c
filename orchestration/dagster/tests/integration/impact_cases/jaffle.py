"""A project in the shape of dbt's jaffle shop, on Trino: staging, marts, CTEs, a pivot, a semantic model."""

from .base import Case

FILES = {
    "dbt_project.yml": """
name: jaffle
version: "1.0"
profile: jaffle
flags: {send_anonymous_usage_stats: false}
models: {jaffle: {+materialized: table}}
""",
    "profiles.yml": """
jaffle:
  target: prod
  outputs:
    prod:
      type: trino
      method: none
      host: trino.invalid
      port: 8080
      user: dbt
      database: lake
      schema: jaffle
      threads: 2
""",
    "macros/cents.sql": "{% macro cents(column) %}{{ column }} / 100{% endmacro %}",
    "models/staging/sources.yml": """
sources:
  - name: shop
    schema: raw
    database: lake
    tables:
      - name: customers
        columns:
          - {name: id, data_type: bigint}
          - {name: first_name, data_type: varchar}
          - {name: last_name, data_type: varchar}
      - name: orders
        columns:
          - {name: id, data_type: bigint}
          - {name: user_id, data_type: bigint}
          - {name: order_date, data_type: timestamp(6)}
          - {name: status, data_type: varchar}
      - name: payments
        columns:
          - {name: id, data_type: bigint}
          - {name: order_id, data_type: bigint}
          - {name: payment_method, data_type: varchar}
          - {name: amount, data_type: "decimal(18, 2)"}
""",
    "models/staging/stg_customers.sql": """
with source as (
    select * from {{ source('shop', 'customers') }}
),
renamed as (
    select id as customer_id, first_name, last_name from source
)
select * from renamed
""",
    "models/staging/stg_orders.sql": """
with source as (
    select * from {{ source('shop', 'orders') }}
),
renamed as (
    select id as order_id, user_id as customer_id, order_date, status from source
)
select * from renamed
""",
    "models/staging/stg_payments.sql": """
select id as payment_id, order_id, payment_method, {{ cents('amount') }} as amount
from {{ source('shop', 'payments') }}
""",
    "models/marts/customers.sql": """
with customers as (
    select * from {{ ref('stg_customers') }}
),
orders as (
    select * from {{ ref('stg_orders') }}
),
payments as (
    select * from {{ ref('stg_payments') }}
),
customer_orders as (
    select
        customer_id, min(order_date) as first_order, max(order_date) as most_recent_order,
        count(order_id) as number_of_orders
    from orders
    group by customer_id
),
customer_payments as (
    select orders.customer_id, sum(amount) as total_amount
    from payments
    left join orders on payments.order_id = orders.order_id
    group by orders.customer_id
),
final as (
    select
        customers.customer_id,
        customers.first_name,
        customers.last_name,
        customer_orders.first_order,
        customer_orders.most_recent_order,
        customer_orders.number_of_orders,
        customer_payments.total_amount as customer_lifetime_value
    from customers
    left join customer_orders on customers.customer_id = customer_orders.customer_id
    left join customer_payments on customers.customer_id = customer_payments.customer_id
)
select * from final
""",
    "models/marts/orders.sql": """
{% set payment_methods = ['credit_card', 'coupon', 'bank_transfer', 'gift_card'] %}
with orders as (
    select * from {{ ref('stg_orders') }}
),
payments as (
    select * from {{ ref('stg_payments') }}
),
order_payments as (
    select
        order_id,
        {% for method in payment_methods -%}
        sum(case when payment_method = '{{ method }}' then amount else 0 end) as {{ method }}_amount,
        {% endfor -%}
        sum(amount) as total_amount
    from payments
    group by order_id
),
final as (
    select
        orders.order_id,
        orders.customer_id,
        orders.order_date,
        orders.status,
        {% for method in payment_methods -%}
        order_payments.{{ method }}_amount,
        {% endfor -%}
        order_payments.total_amount as amount
    from orders
    left join order_payments on orders.order_id = order_payments.order_id
)
select * from final
""",
    "models/marts/orders_export.sql": "select * from {{ ref('orders') }}",
    "models/marts/weekly.sql": """
select
    cast(date_trunc('week', order_date) as date) as week,
    status,
    count(*) as orders,
    cast(sum(amount) as decimal(18, 2)) as amount
from {{ ref('orders') }}
group by 1, 2
""",
    "models/marts/legacy.sql": 'select customer_id, number_of_orders from "lake"."jaffle"."customers"',
    "models/marts/time_spine.sql": "select date '2026-01-01' as date_day",
    "models/marts/marts.yml": """
groups:
  - name: finance
    owner: {name: Finance, email: finance@jaffle.example}
models:
  - name: orders
    config: {group: finance}
    columns:
      - name: order_id
        data_tests: [unique, not_null]
  - name: weekly
    config: {contract: {enforced: true}}
    columns:
      - {name: week, data_type: date}
      - {name: status, data_type: varchar}
      - {name: orders, data_type: bigint}
      - {name: amount, data_type: "decimal(18, 2)"}
  - name: time_spine
    time_spine: {standard_granularity_column: date_day}
    columns: [{name: date_day, granularity: day}]
semantic_models:
  - name: sales
    model: ref('orders')
    defaults: {agg_time_dimension: order_date}
    entities: [{name: order_id, type: primary}]
    dimensions: [{name: order_date, type: time, type_params: {time_granularity: day}}]
    measures: [{name: sold, agg: sum, expr: amount}]
metrics:
  - {name: revenue, label: Revenue, type: simple, type_params: {measure: sold}}
exposures:
  - name: weekly_report
    type: dashboard
    owner: {name: Ann, email: ann@jaffle.example}
    depends_on: [ref('weekly')]
  - name: orders_feed
    type: application
    owner: {name: Bob}
    depends_on: [ref('orders_export')]
""",
}

CUSTOMERS, ORDERS, WEEKLY = "models/marts/customers.sql", "models/marts/orders.sql", "models/marts/weekly.sql"
PAYMENTS, STG_ORDERS = "models/staging/stg_payments.sql", "models/staging/stg_orders.sql"
BOTH = "exposure:weekly_report exposure:orders_feed"
AMOUNTS = ("credit_card_amount", "coupon_amount", "bank_transfer_amount", "gift_card_amount", "amount")
FROM_AMOUNT = " ".join(
    [
        "customers.customer_lifetime_value weekly.amount",
        *(f"orders.{name} orders_export.{name}" for name in AMOUNTS),
        BOTH,
    ]
)
BELOW_ORDERS = f"orders_export.* weekly.* {BOTH}"
SALES = "sales revenue"

CASES = [
    Case(
        "a column is removed, and a model reads it",
        {"models/staging/stg_customers.sql": (", last_name from", " from")},
        "customers.last_name",
        "stg_customers.last_name:removed",
        "stg_customers.last_name",
    ),
    Case(
        "a column that nothing reads is renamed",
        {CUSTOMERS: ("total_amount as customer_lifetime_value", "total_amount as lifetime_value")},
        "",
        "customers.customer_lifetime_value:renamed",
    ),
    Case(
        "a missing amount is 0",
        {PAYMENTS: ("{{ cents('amount') }} as", "coalesce({{ cents('amount') }}, 0) as")},
        FROM_AMOUNT,
        "stg_payments.amount:changed",
        metrics=SALES,
    ),
    Case(
        "deleted orders are left out",
        {STG_ORDERS: ("from source\n)", "from source where status <> 'deleted'\n)")},
        f"customers.* legacy.* orders.* {BELOW_ORDERS}",
        "stg_orders.*",
        metrics=SALES,
    ),
    Case(
        "a column of a pivot is removed, and an exposure depends on a copy",
        {ORDERS: (", 'gift_card']", "]")},
        "orders_export.gift_card_amount exposure:orders_feed",
        "orders.gift_card_amount:removed",
        "orders_export.gift_card_amount",
    ),
    Case(
        "a column of a model with a contract and an exposure is renamed",
        {WEEKLY: ("decimal(18, 2)) as amount", "decimal(18, 2)) as revenue")},
        "exposure:weekly_report",
        "weekly.amount:renamed",
        "weekly.amount weekly.revenue",
    ),
    Case(
        "a group gets another column",
        {
            WEEKLY: ("    status,\n", "    status,\n    customer_id,\n"),
            f"{WEEKLY}#2": ("group by 1, 2", "group by 1, 2, 3"),
        },
        "exposure:weekly_report",
        "weekly.* weekly.customer_id:added",
        "weekly.customer_id",
    ),
    Case(
        "orders without payments are left out",
        {ORDERS: ("left join order_payments", "inner join order_payments")},
        BELOW_ORDERS,
        "orders.*",
        metrics=SALES,
    ),
    Case(
        "a status that is a key of a group is in lower case",
        {STG_ORDERS: ("order_date, status from", "order_date, lower(status) as status from")},
        f"orders.status orders_export.status weekly.* {BOTH}",
        "stg_orders.status:changed",
    ),
    Case(
        "orders are counted once, and a table is named in SQL without ref",
        {CUSTOMERS: ("count(order_id)", "count(distinct order_id)")},
        "legacy.number_of_orders",
        "customers.number_of_orders:changed",
    ),
    Case(
        "a source's amount is an integer",
        {"models/staging/sources.yml": ('data_type: "decimal(18, 2)"', "data_type: bigint")},
        f"stg_payments.amount {FROM_AMOUNT}",
        "payments.amount:retyped",
        "payments.amount",
        metrics=SALES,
    ),
    Case(
        "a source is another table",
        {
            "models/staging/sources.yml": (
                "      - name: payments\n",
                "      - name: payments\n        identifier: payments_v2\n",
            )
        },
        f"stg_payments.* customers.* legacy.* orders.* {BELOW_ORDERS}",
        "payments.*",
        metrics=SALES,
    ),
    Case(
        "a model is removed, and its exposure reads another one",
        {
            "models/marts/orders_export.sql": None,
            "models/marts/marts.yml": ("[ref('orders_export')]", "[ref('orders')]"),
        },
        "exposure:orders_feed",
        "orders_export.*",
    ),
    Case(
        "a model is removed that SQL names without ref",
        {CUSTOMERS: None},
        "legacy.*",
        "customers.*",
        "customers",
    ),
    Case("a comment", {CUSTOMERS: ("final as (", "/* one row per customer */\nfinal as (")}),
    Case(
        "a CTE has another name", {ORDERS: ("final as (", "joined as ("), f"{ORDERS}#2": ("from final", "from joined")}
    ),
    Case(
        "a macro divides by another number",
        {"macros/cents.sql": ("/ 100", "/ 1000")},
        FROM_AMOUNT,
        "stg_payments.amount:changed",
        metrics=SALES,
    ),
    Case(
        "a model gets a tag",
        {"models/marts/marts.yml": ("config: {contract: {", "config: {tags: [weekly], contract: {")},
    ),
    Case(
        "a timestamp becomes a date",
        {STG_ORDERS: ("order_date, status from", "cast(order_date as date) as order_date, status from")},
        "customers.first_order customers.most_recent_order orders.order_date orders_export.order_date weekly.* " + BOTH,
        "stg_orders.order_date:retyped stg_orders.order_date:changed",
        "stg_orders.order_date orders_export.order_date orders.order_date",
        metrics=SALES,
    ),
    Case(
        "the SQL casts to another type than the contract has",
        {WEEKLY: ("cast(sum(amount) as decimal(18, 2))", "cast(sum(amount) as double)")},
        "exposure:weekly_report",
        "weekly.amount:changed",
        "weekly.amount",
    ),
]
