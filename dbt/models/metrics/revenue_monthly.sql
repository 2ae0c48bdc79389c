{{
    config(
        materialized='incremental',
        incremental_strategy='replace_window',
        event_time='order_month',
        begin='2025-01-01',
        on_schema_change='fail',
        properties={'partitioning': "ARRAY['year(order_month)']"} if target.type == 'trino' else {},
        post_hook='{{ compact_window() }}',
    )
}}

with days as (

    select * from {{ ref('revenue_daily') }}
    where {{ in_window('order_date', 'date') }}

),

final as (

    select
        cast(date_trunc('month', order_date) as date) as order_month,
        make,
        cast(sum(orders) as bigint) as orders,
        cast(sum(gross_revenue) as decimal(18, 2)) as gross_revenue
    from days
    group by 1, 2

)

select * from final
