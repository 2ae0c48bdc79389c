with users as (

    {{ dedupe(source('faker', 'users'), key='id') }}

),

final as (

    select
        id as customer_id,
        name,
        title,
        age,
        lower(email) as email,
        telephone,
        gender,
        language,
        academic_degree,
        nationality,
        occupation,
        cast(height as decimal(3, 2)) as height_m,
        weight as weight_kg,
        blood_type,
        {{ json_get('address', 'street_number') }} as street_number,
        {{ json_get('address', 'street_name') }} as street_name,
        {{ json_get('address', 'city') }} as city,
        {{ json_get('address', 'state') }} as state,
        {{ json_get('address', 'postal_code') }} as postal_code,
        {{ json_get('address', 'country_code') }} as country_code,
        {{ parse_timestamp('created_at') }} as created_at,
        {{ parse_timestamp('updated_at') }} as updated_at,
        _airbyte_raw_id,
        {{ parse_timestamp('_airbyte_extracted_at') }} as _airbyte_extracted_at,
        coalesce(_airbyte_generation_id, 0) as _airbyte_generation_id
    from users

)

select * from final
