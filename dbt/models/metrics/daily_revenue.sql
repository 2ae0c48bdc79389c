with orders as (

    select * from {{ ref('fct_orders') }}

),

final as (

    select
        order_date,
        count(*) as orders,
        count(distinct customer_id) as customers,
        cast(sum(case when is_returned then 1 else 0 end) as bigint) as returned_orders,
        cast(sum(gross_revenue) as decimal(18, 2)) as gross_revenue,
        cast(sum(refunds) as decimal(18, 2)) as refunds,
        cast(sum(net_revenue) as decimal(18, 2)) as net_revenue
    from orders
    group by order_date

)

select * from final
