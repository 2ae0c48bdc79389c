with orders as (

    select * from {{ ref('stg_orders') }}

),

customers as (

    select * from {{ ref('dim_customer') }}

),

products as (

    select * from {{ ref('dim_product') }}

),

final as (

    select
        orders.order_id,
        orders.customer_id,
        customers.customer_id is not null as is_known_customer,
        customers.country_code as customer_country_code,
        orders.product_id,
        products.product_name,
        products.make,
        products.make_country,
        products.list_price,
        case
            when orders.returned_at is not null then 'returned'
            when orders.purchased_at is not null then 'purchased'
            else 'in_cart'
        end as order_status,
        orders.added_to_cart_at,
        orders.purchased_at,
        orders.returned_at
    from orders
    left join customers on orders.customer_id = customers.customer_id
    left join products on orders.product_id = products.product_id

)

select * from final
