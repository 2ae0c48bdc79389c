"""Changes of the demo, `dbt/`."""

from .base import Case

FCT = "models/gold/fct_orders.sql"
CUSTOMERS, PRODUCTS = "models/silver/dim_customer.sql", "models/silver/dim_product.sql"
ENRICHED = "models/silver/orders_enriched.sql"
BOARD = "exposure:revenue_dashboard"
#: All that is downstream of the rows of fct_orders, and of orders_enriched.
BELOW_FCT = f"customer_lifetime_value.* daily_revenue.* {BOARD}"
BELOW_ENRICHED = f"fct_orders.* orders_daily.* revenue_daily.* revenue_monthly.* {BELOW_FCT}"

CASES = [
    Case(
        "an amount is renamed, its readers are not",
        {FCT: ("list_price as gross_revenue", "list_price as gross_amount")},
        "customer_lifetime_value.gross_revenue daily_revenue.gross_revenue exposure:revenue_dashboard",
        "fct_orders.gross_revenue:renamed",
        "fct_orders.gross_revenue fct_orders.gross_amount",
    ),
    Case(
        "net revenue is calculated in another way",
        {FCT: ("then 0 else list_price end", "then 0 else list_price * 0.9 end")},
        "customer_lifetime_value.lifetime_value daily_revenue.net_revenue exposure:revenue_dashboard",
        "fct_orders.net_revenue:changed",
    ),
    Case(
        "fewer orders count",
        {FCT: ("where purchased_at is not null", "where purchased_at is not null and order_status <> 'in_cart'")},
        BELOW_FCT,
        "fct_orders.*",
    ),
    Case(
        "a price gets fewer digits",
        {"models/bronze/stg_products.sql": ("decimal(18, 2)) as list_price", "decimal(10, 2)) as list_price")},
        "dim_product.list_price orders_enriched.list_price fct_orders.gross_revenue fct_orders.refunds "
        "fct_orders.net_revenue customer_lifetime_value.gross_revenue customer_lifetime_value.refunds "
        "customer_lifetime_value.lifetime_value daily_revenue.gross_revenue daily_revenue.refunds "
        "daily_revenue.net_revenue orders_daily.gross_revenue revenue_daily.gross_revenue "
        "revenue_monthly.gross_revenue exposure:revenue_dashboard",
        "stg_products.list_price:retyped stg_products.list_price:changed",
        "stg_products.list_price",
    ),
    Case(
        "a column that a model reads is removed",
        {"models/bronze/stg_products.sql": ("        year as model_year,\n", "")},
        "dim_product.model_year",
        "stg_products.model_year:removed",
        "stg_products.model_year",
    ),
    Case(
        "a column that nothing reads is removed",
        {PRODUCTS: ("        products.model_year,\n", "")},
        "",
        "dim_product.model_year:removed",
    ),
    Case(
        "e-mail addresses are in upper case",
        {"models/bronze/stg_customers.sql": ("lower(email)", "upper(email)")},
        "dim_customer.email dim_customer.email_domain dim_customer_history.email dim_customer_history.email_domain",
        "stg_customers.email:changed",
    ),
    Case(
        "the country of customers is removed",
        {CUSTOMERS: ("        country_code,\n", "")},
        "orders_enriched.customer_country_code customer_lifetime_value.country_code dim_customer_history.country_code "
        "exposure:revenue_dashboard",
        "dim_customer.country_code:removed",
        "dim_customer.country_code",
    ),
    Case(
        "the domain of an e-mail address is in lower case",
        {CUSTOMERS: ("split_part(email, '@', 2)", "lower(split_part(email, '@', 2))")},
        "dim_customer_history.email_domain",
        "dim_customer.email_domain:changed",
    ),
    Case(
        "a macro of three models keeps the oldest version",
        {"macros/dedupe.sql": ("' desc nulls last'", "' asc nulls last'")},
        f"dim_customer.* dim_product.* dim_customer_history.* orders_enriched.* {BELOW_ENRICHED}",
        "stg_customers.* stg_orders.* stg_products.*",
    ),
    Case(
        "a country in the seed is corrected",
        {"seeds/car_makes.csv": ("Alfa Romeo,Italy", "Alfa Romeo,Italia")},
        f"dim_product.* orders_enriched.* {BELOW_ENRICHED}",
        "car_makes.*",
    ),
    Case(
        "a column of the seed is renamed",
        {"seeds/car_makes.csv": ("make,country", "make,nation")},
        f"dim_product.* orders_enriched.* {BELOW_ENRICHED}",
        "car_makes.* car_makes.country:removed car_makes.nation:added",
        "car_makes.country",
    ),
    Case(
        "a status has another name",
        {ENRICHED: ("then 'returned'", "then 'sent_back'")},
        "fct_orders.is_returned fct_orders.refunds fct_orders.net_revenue customer_lifetime_value.returned_orders "
        "customer_lifetime_value.refunds customer_lifetime_value.lifetime_value daily_revenue.returned_orders "
        "daily_revenue.refunds daily_revenue.net_revenue exposure:revenue_dashboard",
        "orders_enriched.order_status:changed",
    ),
    Case(
        "orders without a product are left out",
        {ENRICHED: ("left join products", "inner join products")},
        BELOW_ENRICHED,
        "orders_enriched.*",
    ),
    Case(
        "customers are not counted once per day",
        {"models/gold/revenue_daily.sql": ("count(distinct customer_id)", "count(customer_id)")},
        "",
        "revenue_daily.customers:changed",
    ),
    Case(
        "a column that only the dashboard may read is removed",
        {
            "models/metrics/daily_revenue.sql": ("        cast(sum(refunds) as decimal(18, 2)) as refunds,\n", ""),
            "models/metrics/models.yml": (
                "      - name: refunds\n        description: Amount refunded for them.\n"
                "        data_type: decimal(18, 2)\n        data_tests: [not_null]\n",
                "",
            ),
            "tests/revenue_reconciles.sql": ("    or orders.refunds is distinct from days.refunds\n", ""),
        },
        BOARD,
        "daily_revenue.refunds:removed",
        "daily_revenue.refunds",
    ),
    Case("a comment", {FCT: ("with orders as (", "-- Orders that were bought.\nwith orders as (")}),
    Case(
        "a CTE has another name",
        {
            "models/silver/orders_daily.sql": ("final as (", "result as ("),
            "models/silver/orders_daily.sql#2": ("from final", "from result"),
        },
    ),
    Case(
        "an incremental model has another key",
        {CUSTOMERS: ("unique_key='customer_id'", "unique_key=['customer_id', 'email']")},
        f"dim_customer_history.* orders_enriched.* {BELOW_ENRICHED}",
        "dim_customer.*",
    ),
    Case(
        "an incremental model looks back further, by a variable",
        {"dbt_project.yml": ("overlap_days: 3", "overlap_days: 5")},
        f"dim_customer_history.* orders_enriched.* {BELOW_ENRICHED}",
        "dim_customer.*",
    ),
]
