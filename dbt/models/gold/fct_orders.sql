with orders as (

    select * from {{ ref('orders_enriched') }}
    where purchased_at is not null

),

final as (

    select
        order_id,
        customer_id,
        product_id,
        purchased_at as ordered_at,
        cast(purchased_at as date) as order_date,
        returned_at,
        order_status = 'returned' as is_returned,
        list_price as gross_revenue,
        cast(case when order_status = 'returned' then list_price else 0 end as decimal(18, 2)) as refunds,
        cast(case when order_status = 'returned' then 0 else list_price end as decimal(18, 2)) as net_revenue
    from orders

)

select * from final
