with orders as (

    select
        order_date,
        count(*) as orders,
        sum(gross_revenue) as gross_revenue,
        sum(refunds) as refunds,
        sum(net_revenue) as net_revenue
    from {{ ref('fct_orders') }}
    group by order_date

),

days as (

    select * from {{ ref('daily_revenue') }}

)

select
    coalesce(orders.order_date, days.order_date) as order_date,
    orders.net_revenue as order_revenue,
    days.net_revenue as day_revenue
from orders
full outer join days on orders.order_date = days.order_date
where
    orders.orders is distinct from days.orders
    or orders.gross_revenue is distinct from days.gross_revenue
    or orders.refunds is distinct from days.refunds
    or orders.net_revenue is distinct from days.net_revenue
