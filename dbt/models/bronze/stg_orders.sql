with purchases as (

    {{ dedupe(source('faker', 'purchases'), key='id') }}

),

final as (

    select
        id as order_id,
        user_id as customer_id,
        product_id,
        {{ parse_timestamp('added_to_cart_at') }} as added_to_cart_at,
        {{ parse_timestamp('purchased_at') }} as purchased_at,
        {{ parse_timestamp('returned_at') }} as returned_at,
        {{ parse_timestamp('created_at') }} as created_at,
        {{ parse_timestamp('updated_at') }} as updated_at,
        _airbyte_raw_id,
        {{ parse_timestamp('_airbyte_extracted_at') }} as _airbyte_extracted_at,
        coalesce(_airbyte_generation_id, 0) as _airbyte_generation_id
    from purchases

)

select * from final
