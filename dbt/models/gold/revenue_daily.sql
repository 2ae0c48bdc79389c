{{
    config(
        materialized='incremental',
        incremental_strategy='replace_window',
        event_time='order_date',
        begin='2025-01-01',
        on_schema_change='fail',
        properties={'partitioning': "ARRAY['month(order_date)']"} if target.type == 'trino' else {},
        post_hook='{{ compact_window() }}',
    )
}}

with orders as (

    select * from {{ ref('orders_daily') }}
    where {{ in_window('ordered_at') }}

),

final as (

    select
        order_date,
        make,
        count(*) as orders,
        count(distinct customer_id) as customers,
        cast(sum(gross_revenue) as decimal(18, 2)) as gross_revenue
    from orders
    group by order_date, make

)

select * from final
