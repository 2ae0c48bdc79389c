with customers as (

    select * from {{ ref('dim_customer') }}

),

orders as (

    select * from {{ ref('fct_orders') }}

),

order_totals as (

    select
        customer_id,
        count(*) as orders,
        sum(case when is_returned then 1 else 0 end) as returned_orders,
        min(ordered_at) as first_order_at,
        max(ordered_at) as last_order_at,
        sum(gross_revenue) as gross_revenue,
        sum(refunds) as refunds,
        sum(net_revenue) as lifetime_value
    from orders
    group by customer_id

),

final as (

    select
        customers.customer_id,
        customers.country_code,
        cast(coalesce(order_totals.orders, 0) as bigint) as orders,
        cast(coalesce(order_totals.returned_orders, 0) as bigint) as returned_orders,
        order_totals.first_order_at,
        order_totals.last_order_at,
        cast(coalesce(order_totals.gross_revenue, 0) as decimal(18, 2)) as gross_revenue,
        cast(coalesce(order_totals.refunds, 0) as decimal(18, 2)) as refunds,
        cast(coalesce(order_totals.lifetime_value, 0) as decimal(18, 2)) as lifetime_value,
        case
            when order_totals.orders is null then 'prospect'
            when order_totals.orders = 1 then 'one_time'
            else 'repeat'
        end as buyer_type
    from customers
    left join order_totals on customers.customer_id = order_totals.customer_id

)

select * from final
