"""The message `tf.train.Example`, built from its definition with the protocol buffer library."""

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory


def example_class():
    """tf.train.Example as the protocol buffer library makes it from the same fields."""
    file = descriptor_pb2.FileDescriptorProto(name="example.proto", package="x", syntax="proto3")
    label = {"one": 1, "many": 3}

    def message(name, *fields):
        made = file.message_type.add(name=name)
        for field, number, kind, often, type_name in fields:
            made.field.add(name=field, number=number, type=kind, label=label[often], type_name=type_name or None)
        return made

    message("BytesList", ("value", 1, 12, "many", ""))
    message("FloatList", ("value", 1, 2, "many", ""))
    message("Int64List", ("value", 1, 3, "many", ""))
    kinds = (("bytes_list", ".x.BytesList"), ("float_list", ".x.FloatList"), ("int64_list", ".x.Int64List"))
    feature = message("Feature", *[(name, at + 1, 11, "one", kind) for at, (name, kind) in enumerate(kinds)])
    feature.oneof_decl.add(name="kind")
    for field in feature.field:
        field.oneof_index = 0
    features = message("Features", ("feature", 1, 11, "many", ".x.Features.FeatureEntry"))
    entry = features.nested_type.add(name="FeatureEntry")
    entry.options.map_entry = True
    entry.field.add(name="key", number=1, type=9, label=1)
    entry.field.add(name="value", number=2, type=11, label=1, type_name=".x.Feature")
    message("Example", ("features", 1, 11, "one", ".x.Features"))
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("x.Example"))
