with products as (

    select * from {{ ref('stg_products') }}

),

makes as (

    select * from {{ ref('car_makes') }}

),

final as (

    select
        products.product_id,
        products.make,
        products.model,
        products.make || ' ' || products.model as product_name,
        products.model_year,
        products.list_price,
        makes.country as make_country,
        products.created_at,
        products.updated_at
    from products
    left join makes on products.make = makes.make

)

select * from final
