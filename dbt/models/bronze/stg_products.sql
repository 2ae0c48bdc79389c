with products as (

    {{ dedupe(source('faker', 'products'), key='id') }}

),

final as (

    select
        id as product_id,
        make,
        model,
        year as model_year,
        cast(price as decimal(18, 2)) as list_price,
        {{ parse_timestamp('created_at') }} as created_at,
        {{ parse_timestamp('updated_at') }} as updated_at,
        _airbyte_raw_id,
        {{ parse_timestamp('_airbyte_extracted_at') }} as _airbyte_extracted_at,
        coalesce(_airbyte_generation_id, 0) as _airbyte_generation_id
    from products

)

select * from final
