with orders as (

    select
        order_date,
        make,
        count(*) as orders,
        sum(gross_revenue) as gross_revenue
    from {{ ref('orders_daily') }}
    group by order_date, make

),

days as (

    select * from {{ ref('revenue_daily') }}

)

select
    days.order_date,
    days.make,
    days.orders,
    orders.orders as orders_there
from days
left join orders on days.order_date = orders.order_date and days.make is not distinct from orders.make
where
    orders.orders is null
    or days.orders <> orders.orders
    or days.gross_revenue <> orders.gross_revenue
