with lifetime_values as (

    select coalesce(sum(lifetime_value), 0) as revenue from {{ ref('customer_lifetime_value') }}

),

orders as (

    select coalesce(sum(orders.net_revenue), 0) as revenue
    from {{ ref('fct_orders') }} as orders
    inner join {{ ref('dim_customer') }} as customers on orders.customer_id = customers.customer_id

)

select
    lifetime_values.revenue as lifetime_value_revenue,
    orders.revenue as order_revenue
from lifetime_values
cross join orders
where lifetime_values.revenue <> orders.revenue
